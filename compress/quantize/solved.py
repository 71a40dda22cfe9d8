"""One tensor after quantization: what is stored, what it stands for, and what that lost."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.grid import to_fp16
from edgepress.errors import InputError

Floats = NDArray[np.float32]
Quantize = Callable[[Floats, str], QuantizedTensor]
_ROWS_AT_A_TIME = 4096


class TensorError(msgspec.Struct, frozen=True, kw_only=True):
    """What quantization did to one tensor.

    ``relative_error`` is (W - Ŵ) H (W - Ŵ)ᵀ / (W H Wᵀ), summed over rows: the relative squared error of the layer's
    output. H is what the solver knew of the inputs: their second moments, or the diagonal of them; the identity where
    ``weighted`` is false.
    """

    name: str
    format: str
    relative_error: float
    weighted: bool


class Solved(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor's integers where it has some, and always the float32 values that ship."""

    values: Floats
    quantized: QuantizedTensor | None = None
    error: TensorError | None = None

    @property
    def stored(self) -> QuantizedTensor | Floats:
        """What a checkpoint keeps."""
        return self.values if self.quantized is None else self.quantized


def solve_tensor(name: str, weight: Floats, format: str, quantize: Quantize, moments: Floats | None) -> Solved:
    """Store one tensor in its format.

    Args:
        name: Hugging Face name.
        weight: float32.
        format: of the tensor; f32 and f16 need no solver.
        quantize: the solver, (weight, format) → QuantizedTensor.
        moments: H, (columns, columns), or its diagonal, (columns,), or None.

    Raises:
        InputError: weights that are not finite or that the format cannot hold; names the tensor.
    """
    if format == "f32":
        return solve_plain(name, weight)
    _check_finite(name, weight)
    try:
        if format == "f16":
            return Solved(values=to_fp16(weight, "value").astype(np.float32))
        tensor = quantize(weight, format)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    values = tensor.dequantize()
    lost = relative_error(weight, values, moments)
    loss = TensorError(name=name, format=format, relative_error=lost, weighted=moments is not None)
    return Solved(values=values, quantized=tensor, error=loss)


def solve_plain(name: str, values: Floats) -> Solved:
    """A tensor that ships as float32.

    Raises:
        InputError: values that are not finite.
    """
    _check_finite(name, values)
    return Solved(values=values)


def _check_finite(name: str, values: Floats) -> None:
    if not np.isfinite(values).all():
        raise InputError(f"{name}: the weights contain NaN or infinity")


def relative_error(weight: Floats, values: Floats, moments: Floats | None) -> float:
    """The relative squared error of ``TensorError``."""
    lost = kept = 0.0
    for start in range(0, len(weight), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        lost += _energy(weight[rows] - values[rows], moments)
        kept += _energy(weight[rows], moments)
    return lost / kept if kept else 0.0


def _energy(rows: Floats, moments: Floats | None) -> float:
    if moments is not None and moments.ndim == 2:
        return float(np.einsum("ij,ij->", rows @ moments, rows, dtype=np.float64))
    per_column = np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
    return float(per_column.sum() if moments is None else per_column @ moments.astype(np.float64))
