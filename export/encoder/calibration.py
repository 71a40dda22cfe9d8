"""Calibration inputs for an encoder: the lines of a text, or an .npz with arrays named like the model's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgepress.errors import InputError, require
from edgepress.export.encoder.observe import Feeds
from edgepress.export.encoder.trace import Traced

LONGEST = 256  # tokens of a line; more would only repeat what the model already showed


def read_calibration(path: Path, directory: Path, traced: Traced, samples: int) -> list[Feeds]:
    """One input per entry, each a batch of one.

    Args:
        path: a text file, or an .npz.
        directory: the model's, with its tokenizer.
        traced: the traced model.
        samples: at most so many, spread over the file.

    Raises:
        InputError: the file cannot be read, or does not fit the model.
    """
    if path.suffix == ".npz":
        return _arrays(path, traced, samples)
    if traced.tokens_limit is None:
        raise InputError(f"{path}: {traced.architecture} takes images; give an .npz with 'pixel_values', float32")
    return _lines(path, directory, traced, samples)


def _arrays(path: Path, traced: Traced, samples: int) -> list[Feeds]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as an .npz of arrays ({error})") from error
    for name, sample in traced.sample.items():
        if name not in arrays:
            raise InputError(f"{path}: no array {name!r} in it; {traced.architecture} takes {', '.join(traced.sample)}")
        wanted, found = sample.shape[1:], arrays[name].shape[1:]
        if arrays[name].ndim != sample.ndim or (sample.ndim > 2 and wanted != found):
            raise InputError(f"{path}: {name} has shape {arrays[name].shape}, wanted (samples, {_shape(sample)})")
        arrays[name] = arrays[name].astype(sample.dtype)
    count = min(len(arrays[name]) for name in traced.sample)
    return [{name: arrays[name][i : i + 1] for name in traced.sample} for i in _spread(count, samples)]


def _shape(sample: Any) -> str:
    return "tokens" if sample.ndim == 2 else ", ".join(str(size) for size in sample.shape[1:])


def _lines(path: Path, directory: Path, traced: Traced, samples: int) -> list[Feeds]:
    tokenizers = require("tokenizers", "encoder")
    file = directory / "tokenizer.json"
    if not file.is_file():
        raise InputError(f"{directory}: no tokenizer.json here; save the model's fast tokenizer into it")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(LONGEST, traced.tokens_limit or LONGEST))
    found: list[Feeds] = []
    for i in _spread(len(lines), samples):
        encoded = tokenizer.encode(lines[i])
        columns = {
            "input_ids": encoded.ids,
            "attention_mask": encoded.attention_mask,
            "token_type_ids": encoded.type_ids,
        }
        found.append({name: np.array([columns[name]], np.int64) for name in traced.sample})
    return found


def _spread(count: int, wanted: int) -> list[int]:
    """Indices of at most ``wanted`` entries, evenly over all."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, wanted)).round()}) if count else []
