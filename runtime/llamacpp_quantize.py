"""llama.cpp's own quantizer, called as llama-quantize calls it: for files to compare with, never for those that ship.

A mixture such as Q4_K_M names the type of most matrices; llama.cpp gives some of them more bits by a rule of its own,
and another type to those whose width its blocks do not divide. The file's header says what was done.

Mixtures that want an importance matrix are not among :data:`MIXTURES`: their lattices abort the process on values for
which they find no point.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.cores import physical_cores
from edgepress.runtime.llamacpp_library import fail, library

Mixture = Literal[
    "Q2_K",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "IQ3_S",
    "IQ3_M",
    "IQ4_XS",
    "IQ4_NL",
    "Q4_0",
    "Q4_1",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_0",
    "Q5_1",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
]
MIXTURES: tuple[Mixture, ...] = get_args(Mixture)

Importance = Mapping[str, NDArray[np.float32]]
_FLOATS = ctypes.POINTER(ctypes.c_float)
_FULL_BYTES = 1 << 20  # a disk with less than this left is why: llama.cpp only says "iostream error"


def check_quantizer() -> None:
    """Refuse a library whose quantizer takes its importance matrix in another way.

    Raises:
        InputError: llama-cpp-python is too old.
        MissingExtraError: it is not installed.
    """
    if not hasattr(library().api, "llama_model_imatrix_data"):
        raise InputError(f"{library().version} is too old to quantize; run: pip install -U llama-cpp-python")


def quantize_file(source: Path, target: Path, mixture: Mixture, importance: Importance) -> None:
    """Write a GGUF file as llama-quantize would.

    Args:
        source: a float32 or float16 GGUF file.
        target: the file to write.
        mixture: one of :data:`MIXTURES`.
        importance: mean square of each input feature, (columns,), by GGUF tensor name; empty for none at all, which
            changes llama.cpp's choice of types a little.

    Raises:
        EdgepressError: llama.cpp fails; carries its reason.
        InputError: an llama-cpp-python that is too old.
        OSError: with ``ENOSPC``, the disk is full.
    """
    check_quantizer()
    api = library().api
    parameters = api.llama_model_quantize_default_params()
    parameters.nthread = physical_cores()
    parameters.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{mixture}")
    entries = _entries(api, importance)
    if importance:
        parameters.imatrix = entries
    status = api.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters))
    if status:
        if shutil.disk_usage(target.parent).free < _FULL_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        raise fail(f"quantizing to {mixture} failed")


def _entries(api: Any, importance: Importance) -> Any:
    """A C array of the importance matrix, ended by an entry without a name; it borrows the arrays' memory."""
    entries = (api.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        if values.dtype != np.float32 or not values.flags.c_contiguous:
            raise TypeError(f"{name}: wanted contiguous float32")
        entry.name, entry.data, entry.size = name.encode(), values.ctypes.data_as(_FLOATS), values.size
    return entries
