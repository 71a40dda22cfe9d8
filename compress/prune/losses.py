"""What each layer loses by each width, seen in the original model: what a budget over all layers is shared by.

For ``obs`` the loss of a layer is that of its output's best approximation, as a share of the output's energy, times
what such an error costs the model (``search.fisher``): a prediction of the divergence. For the published scores it is
the share of the layer's score that is gone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.families import LINEARS, layer_name
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.held_out import thin_out
from edgepress.compress.calibrate.skeleton import Skeleton
from edgepress.compress.prune.importance import score_path
from edgepress.compress.prune.moments import InputSums
from edgepress.compress.prune.obs import Moments, Path, Units, removal_path
from edgepress.compress.prune.parts import Tensors, WidthStep, layer_units, maker_energy, part_of
from edgepress.compress.search.fisher import fisher_costs
from edgepress.progress import progress

FISHER_TOKENS = 4096
LOSS_TOKENS = 32768  # more only cost time
_LEAST = 0.5  # of an even cut
_LEAST_OF_TRAINED = 0.4  # of the whole width: a third does harm at keep 0.7, as does a half at 0.8 (docs/LOG.md)
_LEAST_OF_DEEP_CUT = 0.7  # of an even cut, where that is less


def layer_losses(
    source: WeightSource, step: WidthStep, windows: NDArray[np.int32], least: list[int], *, intercept: bool, seed: int
) -> list[list[float]]:
    """Predicted loss of every layer with k · step of its units gone, down to ``least`` of them.

    Args:
        source: the model.
        step: what is pruned and how.
        windows: calibration tokens, int32, (samples, length); of whole windows no more than 32,768 are looked at.
        least: units that each layer keeps in any case.
        intercept: whether the reader may have a bias.
        seed: of the labels that the Fisher estimate samples.
    """
    costs: dict[str, float] = {}
    if step.method == "obs":
        costs = fisher_costs(source, thin_out(windows, max(1, FISHER_TOKENS // windows.shape[1])), seed)
    found = []
    with progress("losses by width", source.spec.depth) as advance:
        for index, tensors, sums in _inputs(source, step, windows):
            units = layer_units(step, source.spec, source.spec.layers[index])
            path = find_path(step, source, index, tensors, sums, units.count - least[index], intercept=intercept)
            name = layer_name(index, LINEARS[part_of(step).reader])
            scale = costs[name] / _energy(tensors[name], sums.moments(intercept=False)) if costs else 1.0
            found.append([loss * scale for loss in path.losses])
            advance(1)
    return found


def find_path(
    step: WidthStep,
    source: WeightSource,
    index: int,
    tensors: Tensors,
    sums: InputSums,
    removed: int,
    *,
    intercept: bool,
) -> Path:
    """The order in which a layer's units go by the step's method."""
    units = layer_units(step, source.spec, source.spec.layers[index])
    name = layer_name(index, LINEARS[part_of(step).reader])
    weight = torch.from_numpy(tensors[name]).double()
    if step.method == "obs":
        return removal_path(weight, sums.moments(intercept=intercept).covariance, units, removed)
    return score_path(
        step.method, sums.evidence(weight, maker_energy(step, source.spec, index, tensors)), units, removed
    )


@torch.inference_mode()
def _inputs(
    source: WeightSource, step: WidthStep, windows: NDArray[np.int32]
) -> Iterator[tuple[int, Tensors, InputSums]]:
    """Each layer's tensors, and the sums over the inputs of its reader in the original model."""
    skeleton = Skeleton(source, thin_out(windows, max(1, LOSS_TOKENS // windows.shape[1])), half=True)
    hidden, reader = skeleton.embed(), LINEARS[part_of(step).reader]
    for index in range(source.spec.depth):
        tensors = skeleton.read_layer(index)
        layer = skeleton.fill(index, tensors)
        name = layer_name(index, reader)
        sums, seen = InputSums(tensors[name].shape[1], name), list[torch.Tensor]()
        handle = layer.get_submodule(reader).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # noqa: B023
        for batch in skeleton.batches:
            before = hidden[batch].clone()
            hidden[batch] = skeleton.run(layer, index, before)
            sums.add(seen.pop(), None, hidden[batch] if reader == LINEARS["ffn_down"] else before)
        handle.remove()
        sums.require_finite()
        yield index, tensors, sums
        skeleton.release(index)


def _energy(weight: NDArray[np.float32], about_zero: Moments) -> float:
    """E |W x|², tokens counting as in the moments."""
    exact = torch.from_numpy(weight).double()
    return float(((exact @ about_zero.covariance) * exact).sum().clamp(min=1e-300))


def least_units(units: Units, keep: float, *, trained: bool) -> int:
    """Units that a layer keeps in any case, in whole steps: a share of what an even cut leaves, or of all it has."""
    share = min(_LEAST_OF_TRAINED, keep * _LEAST_OF_DEEP_CUT) if trained else keep * _LEAST
    return max(units.step, int(units.count * share + 1e-6) // units.step * units.step)
