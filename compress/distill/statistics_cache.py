"""Channel statistics on disk, so that a second student of the same teacher and text does not run it again."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from edgepress.artifact.cache import cached
from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill.channel_statistics import ChannelStatistics, channel_statistics
from edgepress.errors import InputError

_VERSION = 1
_FILE = "statistics.safetensors"


def cached_statistics(source: WeightSource, windows: NDArray[np.int32]) -> ChannelStatistics:
    """As :func:`~edgepress.compress.distill.channel_statistics.channel_statistics`, computed once.

    Args:
        source: the model.
        windows: int32, (samples, length).

    Raises:
        InputError: what lies in the cache is damaged.
    """
    path = cached("channels", _key(source, windows), partial(_write, source, windows)) / _FILE
    try:
        found = load_file(path)
        return ChannelStatistics(
            hidden=found["hidden"],
            ffn=tuple(found[f"ffn {index}"] for index in range(source.spec.depth)),
            heads=tuple(found[f"heads {index}"] for index in range(source.spec.depth)),
            norm_inputs={name[3:]: values for name, values in found.items() if name.startswith("in ")},
        )
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(f"{path}: damaged ({error}); remove {path.parent} and run the command again") from error


def _write(source: WeightSource, windows: NDArray[np.int32], directory: Path) -> None:
    found = channel_statistics(source, windows)
    layers = {f"ffn {index}": values for index, values in enumerate(found.ffn)}
    layers |= {f"heads {index}": values for index, values in enumerate(found.heads)}
    norms = {f"in {name}": values for name, values in found.norm_inputs.items()}
    save_file({"hidden": found.hidden} | layers | norms, directory / _FILE)


def _key(source: WeightSource, windows: NDArray[np.int32]) -> str:
    total = hashlib.sha256(repr((_VERSION, source.digest(), windows.shape)).encode())
    total.update(np.ascontiguousarray(windows, "<i4").tobytes())
    return total.hexdigest()
