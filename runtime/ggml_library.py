"""The ggml inside llama-cpp-python, through ctypes, since llama-cpp-python binds none of it. All of it is ggml's public
interface: ggml.h, ggml-backend.h.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from edgepress.errors import EdgepressError
from edgepress.runtime.llamacpp_library import library

Handle = ctypes.c_void_p
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_free": (None, (Handle,)),
    "ggml_new_tensor_2d": (Handle, (Handle, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)),
    "ggml_mul_mat": (Handle, (Handle, Handle, Handle)),
    "ggml_new_graph_custom": (Handle, (Handle, ctypes.c_size_t, ctypes.c_bool)),
    "ggml_build_forward_expand": (None, (Handle, Handle)),
    "ggml_quantize_chunk": (
        ctypes.c_size_t,
        (ctypes.c_int, Handle, Handle, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, Handle),
    ),
    "ggml_backend_dev_by_type": (Handle, (ctypes.c_int,)),
    "ggml_backend_dev_init": (Handle, (Handle, ctypes.c_char_p)),
    "ggml_backend_dev_buffer_type": (Handle, (Handle,)),
    "ggml_backend_dev_backend_reg": (Handle, (Handle,)),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, (Handle, Handle)),
    "ggml_backend_reg_get_proc_address": (Handle, (Handle, ctypes.c_char_p)),
    "ggml_backend_free": (None, (Handle,)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (Handle, (Handle, Handle)),
    "ggml_backend_buft_alloc_buffer": (Handle, (Handle, ctypes.c_size_t)),
    "ggml_backend_buft_name": (ctypes.c_char_p, (Handle,)),
    "ggml_backend_buffer_free": (None, (Handle,)),
    "ggml_backend_buffer_get_base": (Handle, (Handle,)),
    "ggml_backend_tensor_alloc": (ctypes.c_int, (Handle, Handle, Handle)),
    "ggml_backend_tensor_set": (None, (Handle, Handle, ctypes.c_size_t, ctypes.c_size_t)),
    "ggml_backend_tensor_get": (None, (Handle, Handle, ctypes.c_size_t, ctypes.c_size_t)),
    "ggml_backend_graph_compute": (ctypes.c_int, (Handle, Handle)),
}


class InitParams(ctypes.Structure):
    """``ggml_init_params``."""

    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


@cache
def ggml_library() -> ctypes.CDLL:
    """The ggml inside llama-cpp-python, with the prototypes of the functions used here.

    Raises:
        MissingExtraError: llama-cpp-python is not installed.
        EdgepressError: it was built in a way that hides these functions.
    """
    library()
    package = Path(str(library().api.__file__)).parent
    found = [path for stem in ("libggml.so", "libggml.dylib", "libllama.so") for path in package.rglob(stem)]
    if not found:
        raise EdgepressError(f"{package}: no ggml library here; install llama-cpp-python from its own wheel or source")
    ggml = ctypes.CDLL(str(found[0]))
    try:
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(ggml, name)
            function.restype, function.argtypes = result, arguments
        ggml.ggml_init.restype, ggml.ggml_init.argtypes = Handle, (InitParams,)
    except AttributeError as error:
        raise EdgepressError(f"{found[0]}: this build of ggml cannot be asked for products ({error})") from error
    return ggml
