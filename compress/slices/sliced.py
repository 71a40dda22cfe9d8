"""A smaller encoder out of a larger one: chosen, cut, and its norms fitted where there are calibration inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn

from edgepress.compress.distill.smaller import Layers
from edgepress.compress.slices.inputs import Inputs
from edgepress.compress.slices.norms import fit_norms
from edgepress.compress.slices.selection import Chosen, choose, cut
from edgepress.compress.slices.shape import EncoderShape, read_shape, size_fields, smaller_config
from edgepress.compress.slices.source import EncoderDirectory
from edgepress.compress.slices.statistics import EncoderStatistics, encoder_statistics
from edgepress.errors import InputError

Select = Literal["importance", "uniform"]


@dataclass(frozen=True)
class SlicedEncoder:
    """A smaller encoder.

    model     transformers' class, float32, in eval mode
    tensors   its weights in the type of the source's; of what the source's files do not have, there is none
    chosen    of the source
    shape     its sizes; ``sizes`` by their names in ``config.json``
    fitted    whether its norms were fitted
    """

    model: Any
    tensors: dict[str, torch.Tensor]
    chosen: Chosen
    shape: EncoderShape
    sizes: dict[str, int]
    fitted: bool

    def save(self, directory: Path) -> None:
        """Write weights and ``config.json`` into an existing directory; the model is not to be used after it."""
        stored = next(iter(self.tensors.values())).dtype
        self.model.to(stored).save_pretrained(directory, state_dict=self.tensors)


def slice_encoder(
    source: EncoderDirectory,
    sizes: Mapping[str, Any],
    inputs: Inputs | None = None,
    *,
    layers: Layers = "uniform",
    select: Select = "importance",
) -> SlicedEncoder:
    """Cut.

    Args:
        source: the larger model.
        sizes: fields of ``config.json``; what is not given stays.
        inputs: to find the important channels with, and to fit norms on; with uniform they may be left out.
        layers: which of the source's.
        select: by importance on ``inputs``, or evenly spaced.

    Raises:
        InputError: sizes that the source does not contain, a tensor without a role, or no inputs for importance.
    """
    if inputs is None and select == "importance":
        raise InputError("slice: importance is measured on calibration inputs, and there are none")
    config, taken = smaller_config(source.config, source.family, sizes, layers)
    whole, small = (read_shape(each, source.family, "start") for each in (source.config, config))
    statistics = _statistics(source, whole, inputs)
    chosen = choose(whole, small, taken, statistics if select == "importance" else None)
    tensors = _cut_all(source, chosen, whole, small)
    model = _build(source, config)
    model.load_state_dict({name: values.float() for name, values in tensors.items()})
    fitted = statistics is not None and small != whole
    if statistics is not None and inputs is not None and fitted:
        _fit(model, source, chosen, statistics, inputs)
        tensors = {name: values.to(tensors[name].dtype) for name, values in model.state_dict().items()}
    kept = {name: values for name, values in tensors.items() if name not in source.absent}
    names = {name: config[name] for name in size_fields(source.family)}
    return SlicedEncoder(model, kept, chosen, small, names, fitted)


def _statistics(source: EncoderDirectory, whole: EncoderShape, inputs: Inputs | None) -> EncoderStatistics | None:
    if inputs is None:
        return None
    return encoder_statistics(source.model, source.family, source.architecture, whole.layers, whole.heads, inputs)


def _cut_all(
    source: EncoderDirectory, chosen: Chosen, whole: EncoderShape, small: EncoderShape
) -> dict[str, torch.Tensor]:
    """All tensors of the smaller model.

    Raises:
        InputError: a tensor that the table does not know, or that has not the shape that the configuration says.
    """
    family, architecture = source.family, source.architecture
    known = {name: role for name, role, _ in family.tensors(architecture, range(whole.layers))}
    for name, values in source.tensors.items():
        if name not in known:
            raise InputError(f"{source.directory}: the tensor {name} has no role in the table of {family.name}")
        wanted = whole.tensor(known[name].axes, tuple(values.shape))
        if tuple(values.shape) != wanted:
            raise InputError(
                f"{source.directory}: {name} is {list(values.shape)}, the configuration says {list(wanted)}"
            )
    places = zip(
        family.tensors(architecture, range(small.layers)), family.tensors(architecture, chosen.layers), strict=True
    )
    return {
        name: cut(source.tensors[origin], role, chosen, layer)
        for (name, role, layer), (origin, _, _) in places
        if origin in source.tensors
    }


def _build(source: EncoderDirectory, config: Mapping[str, Any]) -> Any:
    """An empty model of the source's class; the random state of the caller stays."""
    kind = getattr(transformers, source.architecture)
    with torch.random.fork_rng(devices=[]):
        return kind(kind.config_class.from_dict(dict(config) | {"dtype": "float32"})).float().eval()


def _fit(
    model: nn.Module, source: EncoderDirectory, chosen: Chosen, statistics: EncoderStatistics, inputs: Inputs
) -> None:
    """Fit the norms: each of a layer to those of the layer that it was cut from."""
    family, architecture = source.family, source.architecture
    names = family.norm_modules(architecture, range(len(chosen.layers)))
    origins = family.norm_modules(architecture, chosen.layers)
    channels = torch.from_numpy(chosen.hidden)
    wanted = {name: statistics.norms[origin].at(channels) for name, origin in zip(names, origins, strict=True)}
    fit_norms(model, wanted, inputs)
