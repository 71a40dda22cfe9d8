"""A source wrapped in the preparations that a recipe names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.config import Preparation, QuantizeStep
from edgepress.compress.quantize.prepare.fold_norms import fold_norms
from edgepress.compress.quantize.prepare.rotate_v_o import rotate_v_o
from edgepress.compress.quantize.prepare.scale_up_down import scale_up_down
from edgepress.compress.quantize.prepare.scale_v_o import scale_v_o

# Those that need no text.
_PLAIN: dict[Preparation, Callable[[WeightSource], WeightSource]] = {
    "fold_norms": fold_norms,
    "scale_up_down": scale_up_down,
    "scale_v_o": scale_v_o,
    "rotate_v_o": rotate_v_o,
}


def looks_at_text(step: QuantizeStep) -> bool:
    """Whether any preparation of a step needs calibration windows."""
    return any(method not in _PLAIN for method in step.prepare)


def prepare(
    source: WeightSource, step: QuantizeStep, formats: Mapping[str, str], windows: NDArray[np.int32] | None
) -> WeightSource:
    """The model of the same function that is to be quantized instead.

    Args:
        source: the model.
        step: the recipe's step.
        formats: the format of every tensor; the coarsest that may be chosen where that is still open.
        windows: calibration tokens, int32, (samples, length); None where no preparation looks at them.
    """
    for method in step.prepare:
        plain = _PLAIN.get(method)
        source = plain(source) if plain else _calibrated(source, step, formats, windows)
    return source


def _calibrated(
    source: WeightSource, step: QuantizeStep, formats: Mapping[str, str], windows: NDArray[np.int32] | None
) -> WeightSource:
    from edgepress.compress.quantize.prepare.awq import awq  # brings torch with it

    assert windows is not None, "awq needs calibration windows"
    return awq(source, windows, formats, step.solver)
