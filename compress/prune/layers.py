"""The width steps over a whole model: layer by layer, each solved for the inputs that the pruned ones before it leave.

While the walk goes on, a pruned linear has zeros in the columns that are gone: the same function as the narrower model.
What is written is the narrower one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.families import LINEARS, layer_name
from edgepress.artifact.hf_shapes import with_shapes
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.pair_walk import PairVisit, PairWalk
from edgepress.compress.prune.losses import find_path
from edgepress.compress.prune.moments import InputSums
from edgepress.compress.prune.obs import choose_rest, solve_rest
from edgepress.compress.prune.parts import (
    Tensors,
    WidthStep,
    bias_option,
    layer_units,
    maker_rows,
    part_of,
    pruned_shape,
)
from edgepress.compress.prune.removed import Removed
from edgepress.compress.prune.stage import StageWriter, ends_of, layers_of

Floats = NDArray[np.float32]


def prune_widths(
    source: WeightSource,
    step: WidthStep,
    counts: list[int],
    windows: NDArray[np.int32],
    directory: FilePath,
    *,
    name: str,
    bias: bool,
) -> None:
    """Write the pruned model as a float32 checkpoint into ``directory``, which exists and is empty.

    Args:
        source: the model.
        step: what is pruned and how.
        counts: units that each layer keeps.
        windows: calibration tokens, int32, (samples, length).
        directory: where the checkpoint goes.
        name: the model's name.
        bias: whether the means may go into a bias of the reader.
    """
    spec, units = source.spec, [layer_units(step, source.spec, layer) for layer in source.spec.layers]
    bias = bias and bias_option(source, part_of(step)) is not None and step.repair
    writer = StageWriter(directory, spec.depth)
    unchanged = counts == [each.count for each in units]
    stays: list[NDArray[np.intp]] = []  # columns of the reader, layer by layer
    walk = _walk(source, step, counts, windows, stays, bias=bias)
    writer.write_layers(layers_of(source, range(spec.depth)) if unchanged else walk, f"prune ({step.method})")
    kept = [tuple(columns.tolist()) for columns in stays]
    removed = Removed(reader=part_of(step).reader, columns=tuple(kept)) if kept else Removed()
    option = bias_option(source, part_of(step))
    given = {option: True} if bias and not unchanged and option else {}
    shapes = [pruned_shape(step, layer, count) for layer, count in zip(spec.layers, counts, strict=True)]
    config = with_shapes(source.config | {"tie_word_embeddings": spec.tied} | given, shapes, spec.head_dim)
    writer.finish(ends_of(source), source.tokenizer_dir, removed, config, name)


def _walk(
    source: WeightSource,
    step: WidthStep,
    counts: list[int],
    windows: NDArray[np.int32],
    stays: list[NDArray[np.intp]],
    *,
    bias: bool,
) -> Iterator[Tensors]:
    as_it_was = True  # so far: there is nothing to make up for
    for visit in PairWalk(source, windows, half=True).layers():
        index = visit.index
        units = layer_units(step, source.spec, source.spec.layers[index])
        as_it_was &= counts[index] == units.count
        if as_it_was:
            tensors, columns = dict(visit.tensors), np.arange(units.count * units.size)
            if bias:
                _add_bias(tensors, step, index, np.zeros(source.spec.hidden, np.float32))
        else:
            tensors, columns = prune_layer(source, step, visit, counts[index], bias=bias)
        stays.append(columns)
        yield tensors


def prune_layer(
    source: WeightSource, step: WidthStep, visit: PairVisit, count: int, *, bias: bool
) -> tuple[Tensors, NDArray[np.intp]]:
    """Prune one layer of a walk to ``count`` units; its tensors, and the columns of the reader that stay."""
    spec, index, tensors = source.spec, visit.index, visit.tensors
    layer, part = spec.layers[index], part_of(step)
    reader = layer_name(index, LINEARS[part.reader])
    sums = InputSums(tensors[reader].shape[1], reader, visit.windows)
    visit.observe(reader, sums.add)
    sums.require_finite()
    units = layer_units(step, spec, layer)
    path = find_path(step, source, index, tensors, sums, units.count - count, intercept=bias)
    kept = path.kept(units.count, units.count - count)
    columns = units.columns(kept)
    weight, added = _solved(step, tensors[reader], sums, columns, bias=bias)
    masked = np.zeros_like(tensors[reader])
    masked[:, columns.numpy()] = weight
    visit.replace(reader, masked)
    pruned = tensors | {reader: weight}
    for role in part.makers:
        rows = maker_rows(step, role, spec, layer, kept)
        for leaf in ("weight", "bias"):
            name = layer_name(index, LINEARS[role], leaf)
            if rows is not None and name in pruned:
                pruned[name] = np.ascontiguousarray(pruned[name][rows.numpy()])
    if added is not None:
        _add_bias(pruned, step, index, added)
        name = layer_name(index, LINEARS[part.reader], "bias")
        visit.replace(name, pruned[name])
    return pruned, columns.numpy()


def _solved(
    step: WidthStep, weight: Floats, sums: InputSums, columns: torch.Tensor, *, bias: bool
) -> tuple[Floats, Floats | None]:
    """The reader's columns that stay, and what its bias gains."""
    if not step.repair:
        return np.ascontiguousarray(weight[:, columns.numpy()]), None
    exact = torch.from_numpy(weight).double()
    if step.method == "flap":  # its own repair: the mean of what is gone
        gone = exact.clone()
        gone[:, columns] = 0
        mean = (gone @ sums.plain_mean).float().numpy() if bias else None
        return np.ascontiguousarray(weight[:, columns.numpy()]), mean
    choice = choose_rest(exact, *sums.parts(intercept=bias), columns)
    solved, added = solve_rest(exact, sums.moments(intercept=bias), columns, choice)
    return solved.float().numpy(), added.float().numpy() if bias else None


def _add_bias(tensors: Tensors, step: WidthStep, index: int, added: Floats) -> None:
    """Give the reader its bias, and the linears that the same option of the configuration gives one, zeros."""
    part = part_of(step)
    name = layer_name(index, LINEARS[part.reader], "bias")
    tensors[name] = tensors[name] + added if name in tensors else added
    for role in part.makers:
        weight = tensors[layer_name(index, LINEARS[role])]
        tensors.setdefault(layer_name(index, LINEARS[role], "bias"), np.zeros(len(weight), np.float32))
