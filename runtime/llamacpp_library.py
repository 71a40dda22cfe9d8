"""llama.cpp through the low-level API of llama-cpp-python: loading, its log, its tokenizer.

llama.cpp reports by log lines and null pointers. The log is kept silent, and its last error lines go into the message
of the error. It aborts the process on some files that make no sense: :mod:`.llamacpp_checks` refuses those before.
"""

from __future__ import annotations

import ctypes
from collections import deque
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from typing_extensions import Self

from edgepress.errors import EdgepressError, InputError, require
from edgepress.runtime.llamacpp_checks import read_checked_header
from edgepress.runtime.llamacpp_kernels import extra_kernels_work

_ERROR, _CONTINUED = 4, 5  # ggml's log levels
_KEPT_LINES = 4

Pointer = Any  # an opaque ctypes handle


class Library:
    """The loaded library and the tail of its error log."""

    def __init__(self) -> None:
        self.api = require("llama_cpp", "gguf")
        self._errors: deque[str] = deque(maxlen=_KEPT_LINES)
        self._level = 0
        self._callback = self.api.llama_log_callback(self._log)  # kept alive: C holds a pointer to it
        self.api.llama_log_set(self._callback, ctypes.c_void_p(0))
        self.api.llama_backend_init()

    @cached_property
    def repacks(self) -> bool:
        """Whether weights may be repacked for the processor's wider instructions."""
        return extra_kernels_work(self.api)

    @property
    def version(self) -> str:
        """Versions of the Python package and of the engine inside it."""
        version = f"llama-cpp-python {self.api.__version__}"
        if not hasattr(self.api, "llama_version"):
            return version
        without = "" if self.repacks else ", weights not repacked"
        return f"{version}, llama.cpp {self.api.llama_version().decode()}{without}"

    def load_model(self, path: Path, *, vocabulary_only: bool = False) -> Pointer:
        """Open a checked file; the weights are mapped, not read.

        Raises:
            InputError: llama.cpp does not accept the file; carries the last lines of its log.
        """
        parameters = self.api.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.vocab_only = vocabulary_only
        if not vocabulary_only and hasattr(parameters, "use_extra_bufts"):
            parameters.use_extra_bufts = self.repacks
        self._errors.clear()
        model = self.api.llama_model_load_from_file(str(path).encode(), parameters)
        if not model:
            raise InputError(f"{path}: llama.cpp cannot load it ({self.last_errors()})")
        return model

    def last_errors(self) -> str:
        """What llama.cpp last complained about, on one line."""
        return "; ".join(self._errors) or "it gives no reason"

    def _log(self, level: int, text: bytes, _: Any) -> None:
        self._level = level if level != _CONTINUED else self._level
        line = text.decode("utf-8", errors="replace").strip()
        if self._level == _ERROR and line:
            self._errors.append(" ".join(line.split()))


@cache
def library() -> Library:
    """The one instance of the library in this process.

    Raises:
        MissingExtraError: llama-cpp-python is not installed.
    """
    return Library()


class Vocabulary:
    """The tokenizer inside a loaded model."""

    def __init__(self, model: Pointer) -> None:
        self._api = library().api
        self._model = model
        self._vocab = self._api.llama_model_get_vocab(model)
        self.size: int = self._api.llama_vocab_n_tokens(self._vocab)
        self.bos_id = self._special(self._api.llama_vocab_bos)
        self.eos_id = self._special(self._api.llama_vocab_eos)
        self.eot_id = self._special(self._api.llama_vocab_eot)
        self.add_bos = bool(self._api.llama_vocab_get_add_bos(self._vocab))

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Text → token ids, nothing added around it.

        Args:
            text: the text.
            special: whether control tokens written out in the text become their ids (a chat template's output), or
                stay plain text (a user's words).
        """
        data = text.encode("utf-8")
        room = len(data) + 2
        while True:
            ids = (ctypes.c_int32 * room)()
            count = self._api.llama_tokenize(self._vocab, data, len(data), ids, room, False, special)
            if count >= 0:
                return list(ids[:count])
            room = -count

    def token_bytes(self, token: int, *, control: bool = True) -> bytes:
        """The bytes that a token stands for; control tokens as they are written, or as nothing."""
        room = 64
        while True:
            piece = ctypes.create_string_buffer(room)
            count = self._api.llama_token_to_piece(self._vocab, token, piece, room, 0, control)
            if count >= 0:
                return piece.raw[:count]
            room = -count

    def ends_generation(self, token: int) -> bool:
        """Whether the model says by this token that it is done (end of text or of its turn)."""
        return bool(self._api.llama_vocab_is_eog(self._vocab, token))

    def chat_template(self) -> str | None:
        """The Jinja template that turns messages into text; None where the file has none."""
        template = self._api.llama_model_chat_template(self._model, None)
        return None if template is None else str(template.decode("utf-8", errors="replace"))

    def _special(self, getter: Any) -> int | None:
        token = int(getter(self._vocab))
        return token if token >= 0 else None


class VocabularyFile:
    """A GGUF file opened for its tokenizer alone; no weights are mapped. Use with ``with``."""

    def __init__(self, path: Path) -> None:
        read_checked_header(path)
        self._model = library().load_model(path, vocabulary_only=True)
        self.vocabulary = Vocabulary(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        if self._model:
            library().api.llama_model_free(self._model)
            self._model = None


def fail(message: str) -> EdgepressError:
    """An engine's failure, with the last lines of its log."""
    return EdgepressError(f"llama.cpp: {message} ({library().last_errors()})")
