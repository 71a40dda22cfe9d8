"""One matrix, one format, one solver → a QuantizedTensor, on all cores.

Rows are independent of each other for these solvers, so a matrix is cut into bands of rows that threads work through;
the result does not depend on how many there are.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edgepress.artifact.formats import get_format
from edgepress.artifact.quantized import QuantizedTensor, concatenate_rows
from edgepress.compress.quantize.config import Solver
from edgepress.compress.quantize.grid import Floats
from edgepress.compress.quantize.k_affine import quantize_k_affine
from edgepress.compress.quantize.k_symmetric import quantize_k_symmetric
from edgepress.compress.quantize.nearest import quantize_nearest
from edgepress.compress.quantize.scale_search import quantize_scale_search
from edgepress.errors import InputError
from edgepress.runtime.cores import physical_cores

_BAND_VALUES = 1 << 19


def quantize_matrix(weight: Floats, format: str, solver: Solver, importance: Floats | None) -> QuantizedTensor:
    """Quantize a matrix.

    Args:
        weight: float32, (rows, columns).
        format: a block format that divides the columns.
        solver: ``nearest`` or ``scale_search``.
        importance: float32, (columns,), mean square of each input feature; unused by ``nearest``.

    Raises:
        InputError: the format's block does not divide the columns, or a value is not finite.
    """
    spec = get_format(format)
    if not spec.fits(weight.shape[1]):
        raise InputError(f"{weight.shape[1]} columns are not a multiple of {format}'s block of {spec.block}")
    if not np.isfinite(weight).all():
        raise InputError("the weights contain NaN or infinity")
    band = max(1, _BAND_VALUES // weight.shape[1])
    bands = [weight[start : start + band] for start in range(0, weight.shape[0], band)]
    with ThreadPoolExecutor(max_workers=physical_cores()) as pool:
        parts = list(pool.map(lambda rows: _solve(rows, format, solver, importance), bands))
    return concatenate_rows(parts)


def _solve(weight: Floats, format: str, solver: Solver, importance: Floats | None) -> QuantizedTensor:
    spec = get_format(format)
    search = solver == "scale_search"
    if spec.kind == "super":
        solve = quantize_k_affine if spec.has_min else quantize_k_symmetric
        return solve(weight, format, importance if search else None, search=search)
    if search:
        return quantize_scale_search(weight, format, importance)
    return quantize_nearest(weight, format)
