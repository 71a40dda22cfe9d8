"""How many bytes of key-value cache llama.cpp allocates, known before it does.

    bytes = Σ_layers cells(layer) · kv_heads(layer) · (key width · bytes of a key + value width · bytes of a value)
    cells = context, or min(context, window + batch) behind a sliding window, both rounded up to 256

Source: llama-kv-cache.cpp and llama-kv-cache-iswa.cpp of llama.cpp.
"""

from __future__ import annotations

import numpy as np

from edgepress.artifact.families import FAMILIES
from edgepress.artifact.formats import get_format
from edgepress.artifact.gguf_header import GgufHeader
from edgepress.runtime.llamacpp_checks import whole

BATCH = 512  # tokens that llama.cpp evaluates at a time
CELL_STEP = 256

# Key-value cache types, by ggml's type numbers.
KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}

_PERIODS = {family.gguf: family.window_pattern for family in FAMILIES.values() if family.window_pattern}


def kv_cache_bytes(header: GgufHeader, context: int, type_k: str, type_v: str) -> int:
    """Bytes of keys and values that llama.cpp allocates for a context.

    Layers behind a sliding window hold window + batch cells. Where the file does not say which layers slide, they are
    counted by the architecture's rule for gemma3 and as full for any other, which is then an upper bound.
    """
    name = header.metadata["general.architecture"]
    layers = whole(header, f"{name}.block_count")
    heads = whole(header, f"{name}.attention.head_count")
    kv_heads = header.metadata.get(f"{name}.attention.head_count_kv", heads)
    per_layer = [int(n) for n in np.broadcast_to(np.asarray(kv_heads), (layers,))]
    default = whole(header, f"{name}.embedding_length") // max(1, heads)
    widths = (
        (whole(header, f"{name}.attention.key_length", default), type_k),
        (
            whole(header, f"{name}.attention.value_length", default),
            type_v,
        ),
    )
    per_cell = sum(width * get_format(kind).bits_per_value / 8 for width, kind in widths)
    cells = _cells(header, name, layers, context)
    return int(sum(n * count * per_cell for n, count in zip(per_layer, cells, strict=True)))


def _cells(header: GgufHeader, name: str, layers: int, context: int) -> list[int]:
    full = _round_up(context)
    window = whole(header, f"{name}.attention.sliding_window")
    period = whole(header, f"{name}.attention.sliding_window_pattern", _PERIODS.get(name, 0))
    if not window or not period:
        return [full] * layers
    sliding = _round_up(min(full, window + min(BATCH, context)))
    return [full if (i + 1) % period == 0 else sliding for i in range(layers)]


def _round_up(cells: int) -> int:
    return -(-cells // CELL_STEP) * CELL_STEP
