"""AWQ-style scaling: the features of a norm that are loud get finer steps in the linears behind it.

Rounding W · diag(s) instead of W, with diag(s)⁻¹ in the norm's gain, divides the error at a loud feature by s_j and
costs the others the larger steps of their block. With X the inputs and W all linears behind the norm together,

    s_j = x_j^β / w_j^(1-β),        x_j = √(E x_j²),  w_j = ‖W_·j‖,

of geometric mean one, and β from 0 to 1/2 is the one with the least error of the outputs,

    Σ tr (Ŵ_s diag(s)⁻¹ - W) H (Ŵ_s diag(s)⁻¹ - W)ᵀ / tr W H Wᵀ,        H = E x xᵀ, all tokens counting alike,

summed over those linears, each rounded to its format by the step's solver on a sample of its rows. A norm for which
leaving it alone is best is left alone.

Source: Lin et al., AWQ (arXiv 2306.00978), whose s is x^β; the division by w is that of its authors' code. Where we
depart: root mean squares instead of mean magnitudes, with the tokens' own energies divided out (``calibrate/moments``);
o and down have their own methods, ``scale_v_o`` and ``scale_up_down``; no clipping, which the solvers' scales do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.families import FAMILIES, READERS
from edgepress.artifact.formats import get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.inputs import layer_moments
from edgepress.compress.calibrate.moments import InputStatistics
from edgepress.compress.quantize.config import Solver
from edgepress.compress.quantize.folding import Factors, Floats, FoldedModel, readers_of
from edgepress.compress.quantize.prepare.scale_up_down import column_energy
from edgepress.compress.quantize.solve import quantize_matrix
from edgepress.compress.quantize.solved import relative_error

Moments = NDArray[np.float64]
# (weight, format, H) → the rounded weight.
Quantize = Callable[[Floats, str, Moments], QuantizedTensor]
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
_SAMPLED_ROWS = 96


def awq_factors(input_energy: Moments, weight_energy: Moments, strength: float) -> Factors:
    """s of the module docstring.

    Args:
        input_energy: E x_j², (columns,).
        weight_energy: w_j², (columns,).
        strength: β.

    Returns:
        float64, (columns,), positive; 1 for a feature that never fires or that no weight reads.
    """
    used = (input_energy > 0) & (weight_energy > 0)
    inputs, weights = (np.log(np.where(used, energy, 1.0)) / 2 for energy in (input_energy, weight_energy))
    logs = strength * inputs - (1 - strength) * weights
    centre = logs[used].mean() if used.any() else 0.0
    factors: Factors = np.where(used, np.exp(logs - centre), 1.0)
    return factors


def output_error(
    weights: Mapping[str, tuple[Floats, str]], hessian: Moments, factors: Factors, quantize: Quantize
) -> float:
    """The sum of the module docstring, over linears by name with their formats."""
    scaled = hessian / np.outer(factors, factors)
    errors = []
    for weight, format in weights.values():
        stretched = (weight * factors).astype(np.float32)
        rounded = quantize(stretched, format, scaled).dequantize()
        errors.append(relative_error(stretched, rounded, scaled.astype(np.float32)))
    return sum(errors)


def best_factors(
    weights: Mapping[str, tuple[Floats, str]],
    hessian: Moments,
    weight_energy: Moments,
    quantize: Quantize,
    strengths: Sequence[float] = STRENGTHS,
) -> Factors | None:
    """The s of least error; None where none beats leaving the weights alone."""
    energy = np.diag(hessian).copy()
    tried = [awq_factors(energy, weight_energy, strength) for strength in strengths]
    errors = [output_error(weights, hessian, factors, quantize) for factors in (np.ones(len(energy)), *tried)]
    best = int(np.argmin(errors))
    return tried[best - 1] if best else None


def awq(source: WeightSource, windows: NDArray[np.int32], formats: Mapping[str, str], solver: Solver) -> FoldedModel:
    """The model with the features of its norms scaled.

    Args:
        source: the model.
        windows: calibration tokens, int32, (samples, length).
        formats: the format of every tensor; those without codes have no say.
        solver: rounds the candidates.
    """
    model, family = FoldedModel(source), FAMILIES[source.spec.family]
    roles = [role for role in READERS if role in family.norms.values()]
    for layer, moments in layer_moments(source, windows, roles):
        for role in moments:
            weights = {name: source.read(name) for name in readers_of(layer, role)}
            rounded = {
                name: (_sample(weight), formats[name])
                for name, weight in weights.items()
                if get_format(formats[name]).levels
            }
            energy = column_energy(list(weights.values()))
            factors = best_factors(rounded, moments[role].hessian.numpy(), energy, _quantizer(solver))
            if factors is not None:
                model.fold(layer, role, factors)
    return model


def _sample(weight: Floats) -> Floats:
    rows = np.linspace(0, len(weight) - 1, min(_SAMPLED_ROWS, len(weight))).astype(np.intp)
    return np.ascontiguousarray(weight[rows])


def _quantizer(solver: Solver) -> Quantize:
    from edgepress.compress.quantize.gptaq.solve import InputSolver

    def quantize(weight: Floats, format: str, hessian: Moments) -> QuantizedTensor:
        if solver == "gptaq":
            return InputSolver(InputStatistics(hessian=torch.from_numpy(hessian))).trial(weight, format)
        return quantize_matrix(weight, format, solver, np.diag(hessian).astype(np.float32))

    return quantize
