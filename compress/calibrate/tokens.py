"""Calibration windows: token ids of shape (samples, length), from the student itself, from files, or from both."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.cache import cached
from edgepress.artifact.files import sha256_file
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.calibrate.self_generate import GENERATION_VERSION, generate_windows
from edgepress.errors import InputError
from edgepress.runtime.text import TextCodec

Tokens = NDArray[np.int32]


def calibration_windows(source: WeightSource, calibration: Calibration) -> Tokens:
    """The windows of a recipe's calibration section, int32, (samples, length). Self-generated ones are cached.

    Raises:
        InputError: no source of text, a file that cannot be read, or too little text.
    """
    codec = TextCodec(source.tokenizer_dir)
    check_calibration(calibration)
    length = min(calibration.length, source.spec.context)
    from_files = calibration.samples // 2 if calibration.self_generated else calibration.samples
    parts: list[Tokens] = []
    if calibration.files:
        parts.append(file_windows(codec, calibration.files, from_files, length, calibration.seed))
    if calibration.self_generated:
        count = calibration.samples - sum(len(part) for part in parts)
        parts.append(_own_windows(source, codec, count, length, calibration.seed))
    return np.concatenate(parts)


def check_calibration(calibration: Calibration) -> None:
    """Refuse a section without text or with unreadable files, before any work.

    Raises:
        InputError: says which file, or that there is no source of text.
    """
    if not calibration.self_generated and not calibration.files:
        raise InputError("calibration: 'self' is false and 'files' is empty; name a text file or set self: true")
    for name in calibration.files:
        require_file("calibration.files", name)
        read_text(Path(name))


def calibration_digest(calibration: Calibration) -> str:
    """Changes whenever the section or the content of its files changes."""
    text = repr((calibration, [sha256_file(Path(name)) for name in calibration.files], GENERATION_VERSION))
    return hashlib.sha256(text.encode()).hexdigest()


def require_file(field: str, name: str) -> None:
    """Refuse a text that is not there.

    Raises:
        InputError: ``name``, which the recipe's ``field`` lists, is not a file.
    """
    path = Path(name)
    if path.is_dir():
        raise InputError(f"{field}: {name}: a directory; list the text files in it")
    if not path.is_file():
        raise InputError(f"{field}: {name}: no such file")


def read_text(path: Path) -> str:
    """A text file as UTF-8.

    Raises:
        InputError: it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def file_windows(codec: TextCodec, files: tuple[str, ...], samples: int, length: int, seed: int) -> Tokens:
    """Windows from text files: cut without overlap, ``samples`` of them drawn without replacement.

    Raises:
        InputError: the files hold fewer tokens than asked for.
    """
    ids = [token for name in files for token in codec.encode(read_text(Path(name)), special=False)]
    available = len(ids) // length
    if available < samples:
        raise InputError(
            f"calibration.files hold {len(ids)} tokens, {samples} windows of {length} need {samples * length}; "
            "give more text, or lower samples or length"
        )
    windows = np.asarray(ids[: available * length], np.int32).reshape(available, length)
    chosen = np.random.default_rng(seed).choice(available, samples, replace=False)
    return windows[np.sort(chosen)]


def _own_windows(source: WeightSource, codec: TextCodec, samples: int, length: int, seed: int) -> Tokens:
    key = hashlib.sha256(repr((source.digest(), samples, length, seed, GENERATION_VERSION)).encode()).hexdigest()

    def make(directory: Path) -> None:
        np.save(directory / "windows.npy", generate_windows(source, codec, samples, length, seed))

    windows: Tokens = np.load(cached("calibration", key, make) / "windows.npy", allow_pickle=False)
    return windows
