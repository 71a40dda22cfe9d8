"""What ``edgepress gad`` is asked for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from edgepress.compress.distill.gad.config import GadSettings
from edgepress.errors import InputError


class GadJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, apart from the student.

    text       JSONL files of the teacher's answers
    held_out   files to judge by; without any a part of ``text`` is set aside
    settings   warm-up, training and guards
    """

    text: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    settings: GadSettings = GadSettings()


def read_gad_settings(path: Path) -> GadSettings:
    """Settings from a YAML file.

    Raises:
        InputError: it cannot be read, is not YAML, or a field does not exist or has a wrong value.
    """
    try:
        return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, GadSettings)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error
