"""The ``quantize`` step of a recipe."""

from __future__ import annotations

from typing import Literal

import msgspec

Solver = Literal["nearest", "scale_search"]


class QuantizeStep(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="quantize"
):
    """Store the weights in fewer bits.

    solver      nearest: round by ggml's rule. scale_search: scales that minimise the error weighted by the activations
    format      of the layers' matrices
    embedding   of the embedding and the head; ``format`` when absent
    formats     pattern → format, for single tensors; the first pattern that matches wins. Patterns see Hugging Face
                names without ".weight" (model.layers.3.mlp.down_proj) and role names (*.ffn_down, token_embd)
    fallback    the format for tensors that the chosen one does not fit; without it, such a tensor is an error
    """

    solver: Solver = "scale_search"
    format: str = "q4_0"
    embedding: str | None = None
    formats: dict[str, str] = {}
    fallback: str | None = None
