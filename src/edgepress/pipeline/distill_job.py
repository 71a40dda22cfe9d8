"""What ``edgepress distill`` is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import yaml

from edgepress.compress.distill.config import Loss, Training
from edgepress.compress.distill.shares import Shares
from edgepress.compress.distill.smaller import Layers, read_sizes
from edgepress.errors import InputError
from edgepress.profiles.distillations import SETTINGS_NAMES, settings_text

Select = Literal["importance", "uniform", "random"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A settings file: where the student starts, what counts and how it is trained.

    start   a smaller student of the teacher's family; None where the command line says what is trained
    """

    start: Shares | None = None
    loss: Loss = Loss()
    train: Training = Training()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, apart from the models.

    text       files to train on
    held_out   files to judge by; without any a part of ``text`` is set aside
    settings   loss and training, and shares of the teacher to start from
    sizes      of a student that starts from the teacher, in place of shares; None where a student is given
    select     its weights: the teacher's most important or evenly spaced channels, or random numbers
    layers     of the teacher that it starts from
    """

    text: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    settings: Settings = Settings()
    sizes: dict[str, Any] | None = None
    select: Select = "importance"
    layers: Layers = "uniform"


def read_settings(name: str) -> Settings:
    """Settings by their shipped name or from a YAML file.

    Raises:
        InputError: there are none of that name, the file cannot be read, is not YAML, or a field does not exist or has
            a wrong value.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        if name not in SETTINGS_NAMES:
            shipped = ", ".join(SETTINGS_NAMES)
            raise InputError(f"no settings {name!r}; shipped settings: {shipped}, or give a .yaml file")
        return _parse(settings_text(name), name)
    try:
        return _parse(path.read_text(encoding="utf-8"), name)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _parse(text: str, where: str) -> Settings:
    try:
        return msgspec.convert(yaml.safe_load(text) or {}, Settings)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from error


def read_start(path: Path) -> dict[str, Any]:
    """The sizes of a student from a JSON file.

    Raises:
        InputError: it cannot be read or is no JSON object.
    """
    try:
        return read_sizes(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def select_named(name: str) -> Select:
    """A way of selecting weights by its name.

    Raises:
        InputError: there is none of that name.
    """
    for way in get_args(Select):
        if name == way:
            found: Select = way
            return found
    raise InputError(f"--select {name!r}: unknown; known: {', '.join(get_args(Select))}")
