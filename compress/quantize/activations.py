"""Static int8 or fp8 activations: one scale per input, chosen on the calibration windows (the A8 of W8A8).

    x̂ = s · nearest level to x / s,      s = c / top,      c the magnitude at which the grid ends

The levels are the integers from -128 to 127, top = 127, or the values of E4M3, top = 448.

*minmax* takes for c the largest magnitude that was seen. *mse* takes the c that minimises the error of the output,

    Σ_j ‖W_·j‖² · E[(x_j - x̂_j)²],

in which the errors of the features count as uncorrelated: the column norms weigh a histogram of |x| with 32768 bins,
and of 128 ends between 1/20 of the maximum and the maximum the best is taken. Linears that share an input share c.

Sources: Wu et al., "Integer quantization for deep learning inference" (arXiv 2004.09602) compares the rules; the column
norms are ours. All scales are rounded to fp16, so that half-precision engines compute with the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.activations import HIGHEST
from edgepress.artifact.families import LINEARS, layer_name, readers_in
from edgepress.artifact.float8 import LARGEST, nearest_e4m3
from edgepress.artifact.plan import ActivationFormat
from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.assign import Assignment
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.folding import FoldedModel
from edgepress.compress.quantize.grid import FP16_MAX
from edgepress.compress.quantize.smooth import smooth
from edgepress.errors import InputError

Floats = NDArray[np.float32]
Counts = NDArray[np.float64]

_ENDS = np.geomspace(1 / 20, 1, 128)
_TOPS: dict[ActivationFormat, float] = {"int8": HIGHEST, "fp8": LARGEST}
_SMALLEST = 2.0**-14  # fp16's smallest normal number


def best_end(counts: Counts, largest: float, format: ActivationFormat = "int8") -> float:
    """The c of the least squared error for weighted counts of magnitudes in equal bins from 0 to ``largest``."""
    centres: Counts = np.linspace(0, largest, len(counts), endpoint=False) + largest / len(counts) / 2
    errors = [_squared_error(counts, centres, largest * end / _TOPS[format], format) for end in _ENDS]
    return float(largest * _ENDS[int(np.argmin(errors))])


def _squared_error(counts: Counts, magnitudes: Counts, scale: float, format: ActivationFormat) -> float:
    scaled = magnitudes / scale
    levels = nearest_e4m3(scaled) if format == "fp8" else np.minimum(np.rint(scaled), HIGHEST)
    return float(counts @ (magnitudes - scale * levels) ** 2)


def static_scale(end: float, format: ActivationFormat = "int8") -> float:
    """The fp16 scale of a grid that ends at ``end``; a scale that does nothing where no input was ever seen."""
    return float(np.float16(max(end / _TOPS[format], _SMALLEST)))


def prepare_activations(
    source: WeightSource, step: QuantizeStep, assignment: Assignment, windows: NDArray[np.int32]
) -> tuple[FoldedModel, dict[str, float]]:
    """Smooth the model and calibrate the static scales on what came out.

    Returns:
        The model to quantize, and the scale of each linear with rounded inputs, by its weight's name.

    Raises:
        InputError: inputs beyond what a scale can hold; names the linear.
    """
    from edgepress.compress.calibrate.inputs import input_histograms, input_maxima

    names = frozenset(tensor.name for tensor in assignment.tensors if tensor.input_format != "float")
    maxima = input_maxima(source, windows)
    model = smooth(source, maxima, names, step.smooth)
    ends = {name: float((largest / model.input_factors(name)).max()) for name, largest in maxima.items()}
    if step.clip == "mse":
        histograms = input_histograms(model, windows, ends, _column_weights(model))
        searched = {name: end for name, end in ends.items() if end > 0}
        ends |= {name: best_end(histograms[name], end, step.activations) for name, end in searched.items()}
    largest = _TOPS[step.activations] * FP16_MAX
    for name in names:
        if not ends[name] <= largest:
            raise InputError(
                f"{name}: its inputs go up to {ends[name]:.3g}, and a float16 scale for {step.activations} holds "
                f"{largest:.3g}; give the linear a format of float inputs (f16), or the step another smooth"
            )
    return model, {name: static_scale(ends[name], step.activations) for name in ends if name in names}


def _column_weights(model: WeightSource) -> Mapping[str, Floats]:
    """‖W_·j‖² over all linears that read an input, (columns,), by each linear's name."""
    weights: dict[str, Floats] = {}
    for index, layer in enumerate(model.spec.layers):
        for readers in readers_in(layer).values():
            names = [layer_name(index, LINEARS[reader]) for reader in readers]
            total = np.sum([np.square(model.read(name)).sum(axis=0) for name in names], axis=0)
            weights |= dict.fromkeys(names, total)
    return weights
