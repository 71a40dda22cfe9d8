"""What llama.cpp's graph of each architecture can compute, checked before any work.

llama.cpp fixes much of a model by its architecture's name alone: the activation, where biases may be, which layers
slide, how attention is scaled. A model that differs would load and answer wrongly, or abort the process.

Source: src/models/{llama,deci,qwen2,qwen3,gemma3}.cpp and llama-model.cpp of llama.cpp.
"""

from __future__ import annotations

import math

import msgspec

from edgepress.artifact.families import FAMILIES, LINEARS, Family, gguf_names, layer_name
from edgepress.artifact.formats import formats_for
from edgepress.artifact.ggml_types import GGML_TYPES
from edgepress.artifact.plan import ModelPlan
from edgepress.artifact.spec import ModelSpec
from edgepress.errors import InputError

MAX_LAYERS = 512

_QKV = ("attn_q", "attn_k", "attn_v")


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """What one of llama.cpp's architectures computes.

    ``biases``: linears that may have one. ``square_attention``: heads · head_dim must equal the hidden size.
    ``rope_factors``: it reads ``rope_freqs.weight``. ``mean_head_depth``: at this depth attention is scaled by the
    hidden size over the heads instead of by the head's size.
    """

    activation: str
    biases: tuple[str, ...]
    square_attention: bool = False
    rope_factors: bool = False
    mean_head_depth: int | None = None


GRAPHS: dict[str, Graph] = {
    "llama": Graph(activation="silu", biases=tuple(LINEARS), rope_factors=True),
    "deci": Graph(activation="silu", biases=tuple(LINEARS), rope_factors=True),
    "qwen2": Graph(activation="silu", biases=_QKV, square_attention=True),
    "qwen3": Graph(activation="silu", biases=_QKV),
    "gemma3": Graph(activation="gelu_tanh", biases=_QKV, mean_head_depth=62),  # 62 layers: Gemma 3 27B
}


def check_gguf_support(plan: ModelPlan) -> None:
    """Refuse a model that llama.cpp cannot represent.

    Raises:
        InputError: names the property and what llama.cpp would do instead.
    """
    spec, family = plan.spec, FAMILIES[plan.spec.family]
    graph = GRAPHS[family.architecture(spec)]
    _check_shapes(spec, family, graph)
    _check_numbers(spec, family, graph)
    _check_windows(spec, family)
    _check_tensors(plan, family, graph)


def _refuse(family: Family, what: str) -> InputError:
    return InputError(f"GGUF export: {what}; llama.cpp's {family.gguf} architecture does not support it")


def _check_shapes(spec: ModelSpec, family: Family, graph: Graph) -> None:
    if not spec.uniform and not family.gguf_per_layer:
        held = ", ".join(row.name for row in FAMILIES.values() if row.gguf_per_layer)
        lacking = len(spec.attending) < spec.depth
        what = "some layers have no attention" if lacking else "heads or ffn width differ from layer to layer"
        way = "" if lacking else "prune with widths: uniform, or "
        raise InputError(
            f"GGUF export: {what}, which llama.cpp has for {held} models only, not for {family.name}; "
            f"{way}export to onnx"
        )
    if spec.depth > MAX_LAYERS:
        raise _refuse(family, f"{spec.depth} layers (at most {MAX_LAYERS})")
    if spec.head_dim % 2:
        raise _refuse(family, f"odd head_dim {spec.head_dim}")
    width = spec.layers[0].heads * spec.head_dim
    if graph.square_attention and width != spec.hidden:
        raise _refuse(family, f"{spec.layers[0].heads} heads of {spec.head_dim} are not the hidden size {spec.hidden}")


def _check_numbers(spec: ModelSpec, family: Family, graph: Graph) -> None:
    if spec.activation != graph.activation:
        raise _refuse(family, f"activation {spec.activation} (it computes {graph.activation})")
    if spec.rope.scaling == "llama3" and not graph.rope_factors:
        raise _refuse(family, "llama3 rope scaling")
    if spec.rope_local is not None and spec.rope_local.scaling != "none":
        raise _refuse(family, "scaled rope in sliding layers")
    assumed = _assumed_scale(spec, graph)
    if not math.isclose(spec.attention_scale, assumed, rel_tol=1e-6):
        raise _refuse(family, f"attention scaled by {spec.attention_scale:.6g} (it scales by {assumed:.6g})")
    expected = math.sqrt(spec.hidden) if family.scaled_embedding else 1.0
    if not math.isclose(spec.embedding_scale, expected, rel_tol=1e-6):
        raise _refuse(family, f"embedding scaled by {spec.embedding_scale:.6g} (it scales by {expected:.6g})")


def _assumed_scale(spec: ModelSpec, graph: Graph) -> float:
    size = spec.hidden // spec.layers[0].heads if spec.depth == graph.mean_head_depth else spec.head_dim
    return 1.0 / math.sqrt(size)


def _check_windows(spec: ModelSpec, family: Family) -> None:
    windows = [layer.window for layer in spec.layers]
    if not any(windows):
        return
    if family.window_pattern is None:
        raise _refuse(
            family,
            f"a sliding window of {max(w for w in windows if w)} tokens (lower max_position_embeddings "
            "to that in config.json and it has no effect)",
        )
    sizes = {window for window in windows if window}
    if len(sizes) > 1:
        raise _refuse(family, f"sliding windows of different sizes {sorted(sizes)}")
    for i, layer in enumerate(spec.layers):
        slides = (i + 1) % family.window_pattern != 0
        if (layer.window is not None) != slides or layer.local_rope != (slides and spec.rope_local is not None):
            raise _refuse(family, f"layer {i} breaks the pattern of one global layer in {family.window_pattern}")


def _check_tensors(plan: ModelPlan, family: Family, graph: Graph) -> None:
    known = gguf_names(family, plan.spec.depth)
    refused = {
        layer_name(i, part, "bias")
        for role, part in LINEARS.items()
        if role not in graph.biases
        for i in range(plan.spec.depth)
    }
    types = {kind.name.lower() for kind in GGML_TYPES.values()}
    for tensor in plan.tensors:
        if tensor.name not in known or tensor.name in refused:
            raise _refuse(family, f"tensor {tensor.name}")
        if tensor.format.lower() not in types:
            held = ", ".join(name for name in formats_for(tensor.shape[-1]) if name.lower() in types)
            raise InputError(
                f"GGUF export: {tensor.name} is {tensor.format}, which ggml does not have; formats that fit: {held}"
            )
