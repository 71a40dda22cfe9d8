"""ModelSpec: the shape of a decoder, as every room of edgepress reads it.

Per-layer fields live in :class:`LayerSpec`, since pruned models differ from layer to layer.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec


class RopeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary position embedding: base frequency and how it is stretched to a longer context.

    ``scaling`` is ``none``, ``linear`` (positions divided by ``factor``) or ``llama3`` (low frequencies divided by
    ``factor``, high ones kept, a smooth ramp between; needs the three fields after it).
    """

    theta: float
    scaling: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


class LayerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One decoder layer. ``window`` is the number of keys a query sees, itself included; None sees all before it.

    A layer without heads has no attention, nor the norms around it: its feed-forward reads what the layer reads. The
    first layer of a model always has some.
    """

    heads: int
    kv_heads: int
    ffn: int
    window: int | None = None
    local_rope: bool = False


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder-only language model.

    ``attention_scale`` multiplies q·k; ``embedding_scale`` multiplies the looked-up embedding; ``rope_local`` is the
    rotation of the layers whose ``local_rope`` is set. ``context`` is in tokens.
    """

    family: str
    vocab: int
    hidden: int
    head_dim: int
    context: int
    layers: tuple[LayerSpec, ...]
    norm_eps: float
    activation: Literal["silu", "gelu_tanh"]
    tied: bool
    attention_scale: float
    embedding_scale: float
    rope: RopeSpec
    rope_local: RopeSpec | None = None

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def attending(self) -> tuple[int, ...]:
        """The layers that have attention, and with it keys and values to cache."""
        return tuple(index for index, layer in enumerate(self.layers) if layer.heads)

    def without_attention(self, gone: Collection[int]) -> ModelSpec:
        """The same model where some layers have none."""
        layers = (
            msgspec.structs.replace(layer, heads=0, kv_heads=0) if index in gone else layer
            for index, layer in enumerate(self.layers)
        )
        return msgspec.structs.replace(self, layers=tuple(layers))

    @property
    def uniform(self) -> bool:
        """Whether all layers have the same heads, KV heads and ffn width."""
        first = self.layers[0]
        return all((x.heads, x.kv_heads, x.ffn) == (first.heads, first.kv_heads, first.ffn) for x in self.layers)

    def kv_cache_bytes(self, tokens: int, bytes_per_value: float) -> int:
        """Bytes of keys and values of ``tokens`` cached tokens, windows ignored."""
        values = sum(2 * layer.kv_heads * self.head_dim for layer in self.layers)
        return int(values * tokens * bytes_per_value)
