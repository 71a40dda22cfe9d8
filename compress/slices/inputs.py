"""Calibration inputs for slices: windows of a text, or pictures in an .npy; a few thousand tokens say enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.compress.calibrate.tokens import read_text, require_file
from edgepress.errors import InputError, require

Inputs = dict[str, torch.Tensor]
_TOKENS = 8192  # or patches, of all inputs together: means of channels move little beyond, and memory grows
_WINDOW = 128
_LETTERS_A_TOKEN = 24  # more than text has, so that a large file is not tokenised to its end


def text_inputs(files: Sequence[str], directory: Path, config: dict[str, Any]) -> Inputs:
    """Windows of one length from text files, each with the tokens that the tokenizer puts around a text.

    Args:
        files: text, UTF-8.
        directory: of the model, with ``tokenizer.json``.
        config: of the model, for how many tokens it takes.

    Raises:
        InputError: a file cannot be read, there is no tokenizer or it is another model's, or too little text.
    """
    tokenizers = require("tokenizers", "compress")
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{directory}: no tokenizer.json here; save the model's fast tokenizer into it")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}: damaged tokenizer ({' '.join(str(error).split())})") from error
    length = min(_WINDOW, _tokens_limit(config))
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    for name in files:
        require_file("text", name)
    share = _TOKENS * _LETTERS_A_TOKEN // len(files)
    text = "\n".join(read_text(Path(name))[:share] for name in files)
    encoded = tokenizer.encode(text)
    windows = [part.ids for part in (encoded, *encoded.overflowing) if len(part.ids) == length]
    windows = windows[: _TOKENS // length]
    if not windows:
        raise InputError(f"text: {len(encoded.ids)} tokens in {', '.join(files)}; a window needs {length}, give more")
    highest = max(map(max, windows))
    if highest >= config["vocab_size"]:
        raise InputError(f"{path}: makes token {highest}, and the model has {config['vocab_size']}; not its tokenizer")
    return {"input_ids": torch.tensor(windows)}


def image_inputs(path: Path, config: dict[str, Any]) -> Inputs:
    """Pictures, prepared as the model takes them.

    Args:
        path: .npy of floats, (n, channels, height, width).
        config: of the model, for the sizes.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an .npy of numbers ({' '.join(str(error).split())})") from error
    (height, width), (rows, columns) = (_pair(config[name]) for name in ("image_size", "patch_size"))
    wanted = (config["num_channels"], height, width)
    if not isinstance(stored, np.ndarray) or stored.dtype.kind != "f" or stored.shape[1:] != wanted or not len(stored):
        found = f"{stored.dtype} {stored.shape}" if isinstance(stored, np.ndarray) else "several arrays"
        raise InputError(f"{path}: wanted floats (n, {', '.join(map(str, wanted))}), prepared pictures; got {found}")
    most = max(1, _TOKENS // ((height // rows) * (width // columns) + 1))
    pictures = stored[_spread(len(stored), most)].astype(np.float32)
    if not np.isfinite(pictures).all():
        raise InputError(f"{path}: has values that are NaN or infinite")
    return {"pixel_values": torch.from_numpy(pictures)}


def _tokens_limit(config: dict[str, Any]) -> int:
    """Positions that the table has; RoBERTa counts from behind its padding id."""
    limit = int(config["max_position_embeddings"])
    return limit - config["pad_token_id"] - 1 if config["model_type"] == "roberta" else limit


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _spread(count: int, wanted: int) -> NDArray[np.intp]:
    """Indices of at most ``wanted`` of ``count``, evenly over all."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.intp))
