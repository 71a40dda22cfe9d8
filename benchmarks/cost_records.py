"""What each format costs a device: the record of ``edgepress costs``, which a recipe's ``costs`` names."""

from __future__ import annotations

import msgspec

from edgepress.runtime.environment import Environment

COSTS_VERSION = 1


class MatrixShape(msgspec.Struct, frozen=True, kw_only=True):
    """A shape that ``count`` matrices of a model have.

    ``per_token``: whether each token of a prompt goes through it; a head is wanted for the last one only.
    """

    rows: int
    columns: int
    count: int
    per_token: bool


class ProductCost(msgspec.Struct, frozen=True, kw_only=True):
    """One matrix in one format.

    ``decode_ms`` is the time of its product with one token's activations, ``prefill_ms`` that with a prompt's, per
    token; None where a prompt does not go through it. Both are medians of the samples. ``copies`` of the weights were
    gone through in each sample of the decode; ``kernels`` is what the engine calls the code that multiplied.
    """

    format: str
    rows: int
    columns: int
    bytes: int
    copies: int
    kernels: str
    decode_ms: float
    prefill_ms: float | None
    samples_decode_ms: tuple[float, ...]
    samples_prefill_ms: tuple[float, ...]


class CostsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All shapes of a model in all formats. ``cache_bytes`` is the last-level cache's, None where it is not known."""

    version: int
    engine: str
    engine_version: str
    model: str
    threads: int
    prompt: int
    cache_bytes: int | None
    shapes: tuple[MatrixShape, ...]
    costs: tuple[ProductCost, ...]
    environment: Environment
    warnings: tuple[str, ...]
