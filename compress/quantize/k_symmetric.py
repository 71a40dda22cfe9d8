"""q6_K, q3_K and iq4_xs: super-blocks of 256 values in sub-blocks, each with a signed integer scale.

    w = D·s·level[q]        D fp16 per super-block; s integer per sub-block

             levels                     s             sub-block
    q6_K     -32 … 31                   -128 … 127    16
    q3_K     -4 … 3                     -32 … 31      16
    iq4_xs   iq4_nl's sixteen           -32 … 31      32

*Nearest* is ggml's rule without an importance matrix, operation for operation in float32, so that the file is the one
that llama-quantize writes; each format has a rule of its own (``k_nearest_q6``, ``k_nearest_q3``, ``k_nearest_iq4``).
A compiler that fuses multiplications and additions gives ggml other last bits than ours; x86-64 builds of
llama-cpp-python do not. *Search* is in ``k_symmetric_search``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from edgepress.artifact.formats import Format, get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize import k_nearest_iq4, k_nearest_q3, k_nearest_q6
from edgepress.compress.quantize.grid import Floats
from edgepress.compress.quantize.k_symmetric_search import search_tile
from edgepress.compress.quantize.k_tiles import Fit, solve_in_tiles, tile_importance

_NEAREST: Mapping[str, Callable[[Floats, Format], Fit]] = MappingProxyType(
    {"q6_K": k_nearest_q6.round_tile, "q3_K": k_nearest_q3.round_tile, "iq4_xs": k_nearest_iq4.round_tile}
)


def quantize_k_symmetric(weight: Floats, format: str, importance: Floats | None, *, search: bool) -> QuantizedTensor:
    """Quantize a matrix to super-blocks without minima.

    Args:
        weight: float32, (rows, columns), columns a multiple of 256.
        format: q6_K, q3_K or iq4_xs.
        importance: float32, (columns,), mean square of each input feature; None weighs all alike. Unused by nearest.
        search: minimise the weighted error; otherwise round by ggml's rule.

    Raises:
        InputError: a value that is not finite, or a super-block's scale beyond fp16's range.
    """
    spec = get_format(format)
    # Zero sub-blocks divide by zero on the way; what comes of that is never kept.
    with np.errstate(all="ignore"):
        if not search:
            return solve_in_tiles(weight, spec, lambda values, part: _NEAREST[format](values, spec))
        important = tile_importance(importance, weight.shape[1], spec)
        return solve_in_tiles(weight, spec, lambda values, part: search_tile(values, important(part), spec))
