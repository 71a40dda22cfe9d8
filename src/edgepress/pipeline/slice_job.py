"""What ``edgepress slice`` is asked for, and the record of what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from edgepress.compress.distill.shares import Shares
from edgepress.compress.distill.smaller import Layers, read_sizes
from edgepress.errors import InputError

Select = Literal["importance", "uniform"]
Start = dict[str, Any] | Shares
_SHARES = Shares.__struct_fields__


class SliceJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, apart from the model.

    start    fields of ``config.json``, or shares of the model
    select   its most important channels on calibration inputs, or evenly spaced ones
    layers   evenly spaced from first to last, or the first ones
    text     files of calibration text
    images   .npy of calibration pictures, for a vision model
    """

    start: Start
    select: Select = "importance"
    layers: Layers = "uniform"
    text: tuple[str, ...] = ()
    images: Path | None = None


class SliceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was cut: the content of ``slice.json``.

    sizes        of the smaller model, as ``config.json`` has them
    layers       of the larger model, one per layer of the smaller
    norms        fitted to the chosen channels on calibration inputs, or as they were
    parameters   of the smaller model, and of the larger before
    files        sha256 of each, this one apart; what else is there, or has changed, is not written over
    """

    model: str
    architecture: str
    select: Select
    sizes: dict[str, int]
    layers: tuple[int, ...]
    norms: Literal["fitted", "kept"]
    parameters: int
    parameters_before: int
    files: dict[str, str] = {}


def read_slice_start(start: str) -> Start:
    """Sizes or shares: a JSON file with either, or shares as ``width=0.5,depth=0.5``.

    Raises:
        InputError: there is no such file, it holds something else, or a share is none.
    """
    path = Path(start)
    if "=" in start and not path.exists():
        parts = [part.partition("=")[::2] for part in start.split(",")]
        if len({name for name, _ in parts}) < len(parts):
            raise InputError(f"--start {start}: names a share twice; give each once")
        return _shares(dict(parts), "--start")
    try:
        found = read_sizes(path.read_text(encoding="utf-8"), start)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--start {start}: cannot be read; wanted a JSON file of sizes, or shares as width=0.5,depth=0.5 ({error})"
        ) from error
    return _shares(found, start) if found.keys() & set(_SHARES) else found


def one_of(option: str, name: str, known: Any) -> Any:
    """A choice by its name; ``known`` is the Literal that lists them.

    Raises:
        InputError: there is none of that name.
    """
    if name in get_args(known):
        return name
    raise InputError(f"{option} {name!r}: unknown; known: {', '.join(get_args(known))}")


def _shares(found: dict[str, Any], where: str) -> Shares:
    try:
        return msgspec.convert(found, Shares, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: wanted {' and '.join(_SHARES)}, each above 0 and at most 1 ({error})") from error
