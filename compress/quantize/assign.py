"""Which tensor ships in which format, decided before any work.

Matrices (the layers' linears, the embedding, the head) follow the recipe; norms and biases stay float32. No format that
was asked for is substituted: one whose block does not divide a tensor's rows is an error that lists the formats that
do, unless the recipe names a fallback. Where a budget chooses and the recipe names neither choices nor a fallback, a
matrix that none of the usual formats fits is left in half precision. The plan lists the tensors that fell back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

import msgspec

from edgepress.artifact.families import EMBEDDING, FAMILIES, HEAD, gguf_names, is_matrix
from edgepress.artifact.formats import formats_for, get_format
from edgepress.artifact.plan import ActivationFormat, TensorPlan
from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.errors import InputError


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Format of every tensor; ``fell_back`` names those that took the fallback."""

    tensors: tuple[TensorPlan, ...]
    fell_back: tuple[str, ...]

    @property
    def formats(self) -> dict[str, str]:
        """Format of every tensor, by name."""
        return {tensor.name: tensor.format for tensor in self.tensors}


def assign_formats(
    source: WeightSource, step: QuantizeStep, chosen: Mapping[str, str] = MappingProxyType({})
) -> Assignment:
    """Decide every tensor's format.

    Args:
        source: the model.
        step: the recipe's step.
        chosen: formats by tensor name that go before the step's, from a search for a budget.

    Raises:
        InputError: an unknown format, a pattern that matches nothing, a format that a tensor's width cannot hold, or
            rounded activations where no linear has such weights.
    """
    for name in (step.format, step.embedding, step.fallback, *step.formats.values()):
        if name is not None:
            get_format(name)
    aliases = _aliases(source)
    _check_patterns(step, aliases)
    tensors, fell_back = [], []
    for name in source.names:
        shape = source.shape(name)
        fixed = _fixed(name, step, aliases[name]) if is_matrix(name) else "f32"
        wanted = chosen.get(name) or fixed or _usual(step)
        spare = _spare(step, fixed)
        format = wanted if get_format(wanted).fits(shape[-1]) else _fallback(name, shape[-1], wanted, spare)
        if format != wanted:
            fell_back.append(name)
        rounds_inputs = format == step.activations and name.startswith("model.layers.")
        input_format: ActivationFormat = step.activations if rounds_inputs else "float"
        tensors.append(TensorPlan(name=name, shape=shape, format=format, input_format=input_format))
    if step.activations != "float" and all(tensor.input_format == "float" for tensor in tensors):
        raise InputError(
            f"activations: {step.activations} is for linears in format {step.activations}, and no layer has one"
        )
    return Assignment(tensors=tuple(tensors), fell_back=tuple(fell_back))


def free_choices(source: WeightSource, step: QuantizeStep, usual: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The formats among which a budget chooses, for every matrix that the step does not fix.

    Args:
        source: the model.
        step: the recipe's step.
        usual: the formats to choose from when the step names none.

    Returns:
        Matrix → formats that fit it. A matrix that none of them fits is left to the fallback and not among these.

    Raises:
        InputError: an unknown format, a pattern that matches nothing, a matrix that neither a choice nor the fallback
            fits, or none is free.
    """
    aliases = _aliases(source)
    _check_patterns(step, aliases)
    formats = [get_format(name) for name in step.choices or usual]
    free = {}
    for name, names in aliases.items():
        if _fixed(name, step, names) is not None:
            continue
        width = source.shape(name)[-1]
        fitting = tuple(entry.name for entry in formats if entry.fits(width))
        if fitting:
            free[name] = fitting
        elif not _fits(_spare(step, None), width):
            tried = ", ".join(entry.name for entry in formats)
            raise InputError(
                f"{name}: rows of {width} values fit none of the choices ({tried}); "
                f"add one of {', '.join(formats_for(width))}, or set 'fallback' to one of them"
            )
    if not free:
        raise InputError(f"{step.budgets[0]}: no matrix is left to choose a format for")
    return free


def _aliases(source: WeightSource) -> dict[str, tuple[str, ...]]:
    """The names a pattern may match, for each matrix: Hugging Face's and llama.cpp's, without ".weight"."""
    roles = gguf_names(FAMILIES[source.spec.family], source.spec.depth)
    matrices = [name for name in source.names if is_matrix(name)]
    return {name: (name.removesuffix(".weight"), roles[name].removesuffix(".weight")) for name in matrices}


def _check_patterns(step: QuantizeStep, aliases: dict[str, tuple[str, ...]]) -> None:
    for pattern in step.formats:
        if not any(_matches(pattern, names) for names in aliases.values()):
            examples = ", ".join(alias for names in list(aliases.values())[:2] for alias in names)
            raise InputError(
                f"formats: pattern {pattern!r} matches no matrix of this model; names look like {examples}"
            )


def _matches(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern.removesuffix(".weight")) for name in names)


def _fixed(name: str, step: QuantizeStep, names: Iterable[str]) -> str | None:
    """The format that the step gives this matrix by name."""
    for pattern, format in step.formats.items():
        if _matches(pattern, names):
            return format
    return step.embedding if name in (EMBEDDING, HEAD) else None


def _usual(step: QuantizeStep) -> str:
    """The format of a matrix that is not named and for which none was chosen."""
    if step.budgets:  # none was chosen because none fits: neither the first, nor any block of 32 where none is named
        return step.choices[0] if step.choices else "q8_0"
    return step.format


def _spare(step: QuantizeStep, fixed: str | None) -> str | None:
    """What a matrix takes that its format does not fit; ``fixed`` is the one that the step gives it by name."""
    left_to_choose = step.budgets and not step.choices and fixed is None
    return step.fallback or ("f16" if left_to_choose else None)


def _fits(format: str | None, width: int) -> bool:
    return format is not None and get_format(format).fits(width)


def _fallback(name: str, width: int, wanted: str, spare: str | None) -> str:
    if spare is not None and _fits(spare, width):
        return spare
    block = get_format(wanted).block
    raise InputError(
        f"{name}: rows of {width} values are not a multiple of {wanted}'s block of {block}; formats that fit: "
        f"{', '.join(formats_for(width))}; choose one, or set 'fallback' to one of them"
    )
