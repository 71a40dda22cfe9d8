"""Architecture knowledge as one table: which tensors a family has, and what they are called where.

Tensor names are Hugging Face's. ``GGUF_NAMES`` gives llama.cpp's; a name with ``{i}`` exists once per layer. Whatever
distinguishes the families inside an exporter or an algorithm is a field here, never a branch on the family's name.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgepress.artifact.spec import LayerSpec, ModelSpec

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"
LAYER = "model.layers.{i}."

# The seven matrices of a layer, by role, in the order of computation.
LINEARS: dict[str, str] = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# The same by the input that they read, in the order of computation.
LINEAR_GROUPS: tuple[tuple[str, ...], ...] = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)

# What multiplies the output of a norm or a linear feature by feature, and nothing else does: by llama.cpp's roles. The
# values' features come once per key-value head, and each query head of its group multiplies them.
READERS: dict[str, tuple[str, ...]] = {
    "ffn_up": ("ffn_down",),
    "attn_v": ("attn_output",),
    "attn_norm": ("attn_q", "attn_k", "attn_v"),
    "ffn_norm": ("ffn_gate", "ffn_up"),
}

# Norms of a layer: Hugging Face's name → llama.cpp's, for pre-norm decoders.
_PRE_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_SANDWICH_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
# Linears that may have a bias, with the configuration's option that turns it on.
_ATTENTION_BIASES = {f"self_attn.{part}_proj": "attention_bias" for part in "qkvo"}
_MLP_BIASES = {f"mlp.{part}_proj": "mlp_bias" for part in ("gate", "up", "down")}
_ATTENTION_NORMS = ("attn_norm", "post_attention_norm", "attn_q_norm", "attn_k_norm")
_QK_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    ``norms`` maps the layer's norms to llama.cpp's names. ``norm_offset`` is added to a stored norm weight to get the
    gain that is applied. ``biases`` maps the linears that may have a bias to the option in ``config.json`` that gives
    them one; an empty option means always. ``interleaved_rope`` families have q and k rows reordered in GGUF, from
    halves to pairs. ``gguf_per_layer``: llama.cpp's architecture of the same computation whose layers may each have a
    shape of their own; empty where it has none. ``window_pattern`` p: llama.cpp makes every p-th layer global and the
    others sliding. ``unbiased``: model types that transformers gives none of the ``biases``. ``divides_hidden``: model
    types whose hidden size transformers wants to be a multiple of the query heads, each with what to say in
    ``config.json`` instead, for the same computation without biases, where it is not; nothing where there is no such.
    """

    name: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    gguf: str
    norms: dict[str, str]
    gguf_per_layer: str = ""
    biases: dict[str, str] = {}
    unbiased: tuple[str, ...] = ()
    divides_hidden: dict[str, dict[str, Any]] = {}
    interleaved_rope: bool = False
    norm_offset: float = 0.0
    scaled_embedding: bool = False
    window_pattern: int | None = None

    @property
    def sandwich(self) -> bool:
        """Whether attention and feed-forward outputs are normalised before they are added to the residual."""
        return "post_feedforward_layernorm" in self.norms

    def part(self, role: str) -> str:
        """Hugging Face's name within a layer for a linear or norm that llama.cpp calls ``role``."""
        return LINEARS.get(role) or next(part for part, norm in self.norms.items() if norm == role)

    def norms_of(self, layer: LayerSpec) -> dict[str, str]:
        """``norms`` that a layer has: one without attention has those around the feed-forward."""
        return {part: role for part, role in self.norms.items() if layer.heads or role not in _ATTENTION_NORMS}

    def architecture(self, spec: ModelSpec) -> str:
        """What llama.cpp calls a model of this shape."""
        return self.gguf if spec.uniform or not self.gguf_per_layer else self.gguf_per_layer

    def bias_options(self, model_type: str) -> dict[str, str]:
        """``biases`` of one of the model types."""
        return {} if model_type in self.unbiased else self.biases

    @property
    def qk_norm(self) -> bool:
        """Whether each query and key head is normalised before the rotation."""
        return "self_attn.q_norm" in self.norms


_ALL = (
    Family(
        name="llama",
        model_types=("llama", "mistral"),
        architectures=("LlamaForCausalLM", "MistralForCausalLM"),
        gguf="llama",
        gguf_per_layer="deci",
        norms=_PRE_NORMS,
        biases=_ATTENTION_BIASES | _MLP_BIASES,
        unbiased=("mistral",),
        divides_hidden={
            "llama": {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}
        },
        interleaved_rope=True,
    ),
    Family(
        name="qwen2",
        model_types=("qwen2",),
        architectures=("Qwen2ForCausalLM",),
        gguf="qwen2",
        norms=_PRE_NORMS,
        biases={"self_attn.q_proj": "", "self_attn.k_proj": "", "self_attn.v_proj": ""},
    ),
    Family(
        name="qwen3",
        model_types=("qwen3",),
        architectures=("Qwen3ForCausalLM",),
        gguf="qwen3",
        norms=_PRE_NORMS | _QK_NORMS,
        biases=_ATTENTION_BIASES,
    ),
    Family(
        name="gemma3",
        model_types=("gemma3_text",),
        architectures=("Gemma3ForCausalLM",),
        gguf="gemma3",
        norms=_SANDWICH_NORMS | _QK_NORMS,
        biases=_ATTENTION_BIASES,
        divides_hidden={"gemma3_text": {}},
        norm_offset=1.0,
        scaled_embedding=True,
        window_pattern=6,
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}


def linears_of(layer: LayerSpec) -> dict[str, str]:
    """``LINEARS`` that a layer has: one without attention has those of the feed-forward."""
    return {role: part for role, part in LINEARS.items() if layer.heads or part.startswith("mlp.")}


def linear_shapes(spec: ModelSpec, layer: LayerSpec) -> dict[str, tuple[int, int]]:
    """(out, in) of each linear that a layer has, by role."""
    queries, keys = layer.heads * spec.head_dim, layer.kv_heads * spec.head_dim
    shapes = {
        "attn_q": (queries, spec.hidden),
        "attn_k": (keys, spec.hidden),
        "attn_v": (keys, spec.hidden),
        "attn_output": (spec.hidden, queries),
        "ffn_gate": (layer.ffn, spec.hidden),
        "ffn_up": (layer.ffn, spec.hidden),
        "ffn_down": (spec.hidden, layer.ffn),
    }
    return {role: shapes[role] for role in linears_of(layer)}


def linear_groups_of(layer: LayerSpec) -> tuple[tuple[str, ...], ...]:
    """``LINEAR_GROUPS`` that a layer has."""
    own = set(linears_of(layer).values())
    return tuple(group for group in LINEAR_GROUPS if group[0] in own)


def readers_in(layer: LayerSpec) -> dict[str, tuple[str, ...]]:
    """``READERS`` that a layer has."""
    own = linears_of(layer)
    return {role: readers for role, readers in READERS.items() if readers[0] in own}


def layer_name(index: int, part: str, leaf: str = "weight") -> str:
    """The full name of a layer's tensor: ``layer_name(3, "mlp.up_proj")`` → ``model.layers.3.mlp.up_proj.weight``."""
    return f"{LAYER.format(i=index)}{part}.{leaf}"


def gguf_names(family: Family, depth: int) -> dict[str, str]:
    """Hugging Face tensor name → GGUF tensor name, for every tensor a model of this family may have, in file order."""
    names = {EMBEDDING: "token_embd.weight"}
    roles = {hf: gguf for gguf, hf in LINEARS.items()}
    for i in range(depth):
        for part, role in (family.norms | roles).items():
            names[layer_name(i, part)] = f"blk.{i}.{role}.weight"
            if part in roles:
                names[layer_name(i, part, "bias")] = f"blk.{i}.{role}.bias"
    return names | {FINAL_NORM: "output_norm.weight", HEAD: "output.weight"}


def is_matrix(name: str) -> bool:
    """Whether a tensor is one of those a recipe may quantize: a linear's weight, the embedding or the head."""
    return name.endswith("_proj.weight") or name in (EMBEDDING, HEAD)
