"""The torch reference: the model in float32 by transformers, which every exported file is checked against.

The only module of this room that imports torch and transformers. Weights come from any WeightSource, one tensor at a
time into a model built without memory, so that the peak is one copy of the float32 weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import accelerate
import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.hooks import RemovableHandle

from edgepress.artifact.activations import HIGHEST, LOWEST
from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING, FAMILIES, HEAD, LINEARS, Family, linear_shapes
from edgepress.artifact.float8 import LARGEST
from edgepress.artifact.hf_config import NO_ATTENTION
from edgepress.artifact.plan import ActivationFormat
from edgepress.artifact.spec import LayerSpec, ModelSpec
from edgepress.artifact.weights import WeightSource
from edgepress.errors import InputError
from edgepress.runtime.cores import physical_cores
from edgepress.runtime.session import ClosingSession, Logits, SessionMemory, resident_bytes


class TorchSession(ClosingSession):
    """A Session over transformers' own implementation, in float32. A checkpoint's static inputs are simulated."""

    engine = "torch"
    engine_version = f"torch {torch.__version__}, transformers {transformers.__version__}"

    def __init__(self, source: WeightSource, *, context: int | None = None, threads: int | None = None) -> None:
        self.vocab_size = source.spec.vocab
        limit = source.spec.context
        if context is not None and not 0 < context <= limit:
            raise InputError(f"a context of {context} tokens was asked for; this model takes 1 to {limit}")
        self.context_limit = context or limit
        torch.set_num_threads(threads or physical_cores())
        self._spec = source.spec
        self._model = load_model(source)
        if isinstance(source, Checkpoint):
            round_inputs(self._model, source.activation_scales, source.activation_format)
        self._cache: Any = None
        self._position = 0

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self._position

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], *, logits: Literal["all", "last"] = "all") -> Logits:
        """See :class:`~edgepress.runtime.session.Session`."""
        self.check_tokens(tokens, self._position)
        batch = torch.as_tensor(np.asarray(tokens, dtype=np.int64))[None]
        keep = 0 if logits == "all" else 1
        output = self._model(batch, past_key_values=self._cache, use_cache=True, logits_to_keep=keep)
        self._cache = output.past_key_values
        self._position += len(tokens)
        return np.asarray(output.logits[0].float().numpy())

    def decode(self, token: int) -> Logits:
        """See :class:`~edgepress.runtime.session.Session`."""
        following: Logits = self.prefill([token], logits="last")[0]
        return following

    def reset(self) -> None:
        """Empty the cache."""
        self._cache = None
        self._position = 0

    def memory(self) -> SessionMemory:
        """Bytes held now; the cache grows with the tokens in it."""
        weights = sum(parameter.nbytes for parameter in self._model.parameters())
        cache = self._spec.kv_cache_bytes(self._position, 4)
        return SessionMemory(weights_bytes=weights, kv_cache_bytes=cache, rss_bytes=resident_bytes())

    def close(self) -> None:
        """Free the model."""
        self._model = nn.Module()
        self._cache = None


def build_skeleton(source: WeightSource, dtype: torch.dtype = torch.float32) -> Any:
    """The transformers model for a source's configuration: real buffers, parameters without memory (meta device)."""
    transformers.logging.set_verbosity_error()
    config = _configuration(source)
    with accelerate.init_empty_weights(include_buffers=False):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
        if not source.spec.uniform:
            _give_layers_their_shapes(model, source.spec)
    return model.eval()


def _configuration(source: WeightSource) -> Any:
    """transformers' configuration. Some of its classes want the hidden size to be a multiple of the query heads when
    they are made, and nothing in the computation does; so the number of heads is given afterwards as well. None knows
    layers without attention.
    """
    first, fields = source.spec.layers[0], dict(source.config)
    if source.spec.hidden % first.heads:
        own = {"head_dim": source.spec.head_dim, "num_key_value_heads": first.kv_heads}
        fields |= own | {"num_attention_heads": 1}
    if kinds := fields.get("layer_types"):  # which mask a layer gets that looks at none does not matter
        fields["layer_types"] = ["full_attention" if kind == NO_ATTENTION else kind for kind in kinds]
    config = transformers.AutoConfig.for_model(**fields)
    config.num_attention_heads = first.heads
    config.tie_word_embeddings = source.spec.tied
    return config


def _give_layers_their_shapes(model: Any, spec: ModelSpec) -> None:
    """Resize the linears of each layer; to be called where parameters take no memory."""
    for layer, shape in zip(model.model.layers, spec.layers, strict=True):
        if shape.heads:
            layer.self_attn.num_key_value_groups = shape.heads // shape.kv_heads
        else:
            _take_out_attention(layer, FAMILIES[spec.family], shape)
        for role, (rows, columns) in linear_shapes(spec, shape).items():
            part = LINEARS[role]
            linear = layer.get_submodule(part)
            layer.set_submodule(part, nn.Linear(columns, rows, bias=linear.bias is not None, dtype=linear.weight.dtype))


def _take_out_attention(layer: Any, family: Family, shape: LayerSpec) -> None:
    """Nothing is added to the stream where a layer's attention was, and the norms around it are gone with it."""
    layer.self_attn = _NoAttention(layer.self_attn.layer_idx)
    for part in family.norms.keys() - family.norms_of(shape).keys():
        if "." not in part:  # those within the attention went with it
            layer.set_submodule(part, nn.Identity())


class _NoAttention(nn.Module):
    """Adds nothing to the residual stream. It counts tokens, since transformers takes the place and the length of a
    mask from the cache of the first layer of its kind, which may be this one.
    """

    def __init__(self, place: int) -> None:
        super().__init__()
        self._place = place

    def forward(self, hidden_states: torch.Tensor, past_key_values: Any = None, **_: Any) -> tuple[torch.Tensor, None]:
        if past_key_values is not None:
            nothing = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            past_key_values.update(nothing, nothing, self._place)
        return torch.zeros_like(hidden_states), None


def load_parameter(
    model: nn.Module, name: str, value: np.ndarray[Any, np.dtype[np.float32]], dtype: torch.dtype = torch.float32
) -> None:
    """Put a tensor's values in the place of the model's parameter of that name."""
    owner, _, leaf = name.rpartition(".")
    tensor = torch.from_numpy(np.ascontiguousarray(value)).to(dtype)
    module = model.get_submodule(owner)
    setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))


def load_model(source: WeightSource, dtype: torch.dtype = torch.float32) -> Any:
    """The whole model in memory."""
    model = build_skeleton(source, dtype)
    for name in source.names:
        load_parameter(model, name, source.read(name), dtype)
    if HEAD not in source.names:
        head, embedding = model.get_submodule("lm_head"), model.get_submodule(EMBEDDING.removesuffix(".weight"))
        head.weight = embedding.weight
    missing = [name for name, tensor in model.named_parameters() if tensor.is_meta]
    if missing:
        raise InputError(f"{missing[0]}: the weights lack this tensor, which the model needs")
    return model


def round_inputs(model: nn.Module, scales: Mapping[str, float], format: ActivationFormat) -> list[RemovableHandle]:
    """Make linears round their inputs by static scales of a checkpoint (weight's name → scale).

    In float32, halves to the even level or mantissa, as QuantizeLinear has it. An engine that multiplies the integers
    differs by the rounding of sums, and where that carries a later value into the next level. Returns what undoes it.
    """
    to_levels = _to_fp8 if format == "fp8" else _to_int8
    return [
        model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(_rounding(scale, to_levels))
        for name, scale in scales.items()
    ]


def _rounding(
    scale: float, to_levels: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], torch.Tensor]:
    def rounded(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return to_levels(inputs[0] / scale) * scale

    return rounded


def _to_int8(values: torch.Tensor) -> torch.Tensor:
    return torch.round(values).clamp(LOWEST, HIGHEST)


def _to_fp8(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float()
