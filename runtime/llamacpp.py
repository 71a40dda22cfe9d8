"""Session over llama.cpp.

Prefill runs in chunks of at most ``BATCH`` tokens. Where logits of all positions are wanted the chunks are shorter, so
that llama.cpp's own logit buffer stays below ``LOGIT_BYTES`` whatever the vocabulary: a buffer for the whole context
would dwarf the model. Layers with a sliding window keep only the cells that the window needs, as llama.cpp's own tools
have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgepress.errors import InputError
from edgepress.runtime.cores import physical_cores
from edgepress.runtime.llamacpp_cache import BATCH, KV_TYPES, kv_cache_bytes
from edgepress.runtime.llamacpp_checks import read_checked_header
from edgepress.runtime.llamacpp_library import Vocabulary, fail, library
from edgepress.runtime.session import ClosingSession, Logits, SessionMemory, resident_bytes

LOGIT_BYTES = 32 * 2**20


class LlamaCppSession(ClosingSession):
    """A GGUF file in llama.cpp, on the CPU.

    ``vocabulary`` gives the tokenizer inside the file.
    """

    engine = "llama.cpp"

    def __init__(
        self,
        path: Path,
        *,
        context: int | None = None,
        threads: int | None = None,
        type_k: str = "f16",
        type_v: str = "f16",
    ) -> None:
        """Load a file and make room for ``context`` tokens.

        Args:
            path: a .gguf file.
            context: tokens of key-value cache; None takes the length the model was trained for.
            threads: CPU threads; None takes the physical cores this process may use.
            type_k: type of the cached keys, one of :data:`KV_TYPES`.
            type_v: type of the cached values.

        Raises:
            InputError: a damaged file, a context beyond the model's limit or the machine's memory, an unknown type.
            MissingExtraError: llama-cpp-python is not installed.
        """
        self._model: Any = None
        self._context: Any = None
        self._batch: Any = None
        self._library = library()
        self._api = self._library.api
        self.engine_version = self._library.version
        header = read_checked_header(path)
        for name in (type_k, type_v):
            if name not in KV_TYPES:
                raise InputError(f"unknown key-value cache type {name!r}; known types: {', '.join(KV_TYPES)}")
        self._model = self._library.load_model(path)
        try:
            self.vocabulary = Vocabulary(self._model)
            self.vocab_size = self.vocabulary.size
            self.context_limit = self._checked_context(path, context)
            self._kv_bytes = kv_cache_bytes(header, self.context_limit, type_k, type_v)
            self._refuse_too_large(path)
            self._open_context(path, threads or physical_cores(), type_k, type_v)
        except BaseException:
            self.close()
            raise
        self._position = 0

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self._position

    def prefill(self, tokens: Sequence[int], *, logits: Literal["all", "last"] = "all") -> Logits:
        """Append tokens; see :class:`~edgepress.runtime.session.Session`."""
        self.check_tokens(tokens, self._position)
        if logits == "last":
            for start in range(0, len(tokens), self._chunk):
                rows = self._evaluate(tokens[start : start + self._chunk], every=False)
            return rows.copy()
        result = np.empty((len(tokens), self.vocab_size), dtype=np.float32)
        for start in range(0, len(tokens), self._logit_rows):
            part = tokens[start : start + self._logit_rows]
            result[start : start + len(part)] = self._evaluate(part, every=True)
        return result

    def decode(self, token: int) -> Logits:
        """Append one token; return the logits of the next, float32, (vocab,)."""
        self.check_tokens((token,), self._position)
        row: Logits = self._evaluate((token,), every=False)[0].copy()
        return row

    def reset(self) -> None:
        """Empty the cache."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)
        self._position = 0

    def memory(self) -> SessionMemory:
        """Bytes held now; the weights are mapped from the file, the cache is allocated whole at the start."""
        return SessionMemory(
            weights_bytes=int(self._api.llama_model_size(self._model)),
            kv_cache_bytes=self._kv_bytes,
            rss_bytes=resident_bytes(),
        )

    def close(self) -> None:
        """Free the context and the model. The session is unusable afterwards."""
        if self._batch is not None:
            self._api.llama_batch_free(self._batch)
            self._batch = None
        if self._context:
            self._api.llama_free(self._context)
            self._context = None
        if self._model:
            self._api.llama_model_free(self._model)
            self._model = None

    def _checked_context(self, path: Path, wanted: int | None) -> int:
        limit = int(self._api.llama_model_n_ctx_train(self._model))
        if wanted is None:
            return limit
        if not 0 < wanted <= limit:
            raise InputError(f"{path}: context {wanted} is outside the model's 1 to {limit}")
        return wanted

    def _refuse_too_large(self, path: Path) -> None:
        import psutil

        free = psutil.virtual_memory().available
        if self._kv_bytes > free:
            raise InputError(
                f"{path}: a context of {self.context_limit} tokens needs {self._kv_bytes >> 20} MiB of key-value "
                f"cache, {free >> 20} MiB are free; open it with a smaller context"
            )

    def _open_context(self, path: Path, threads: int, type_k: str, type_v: str) -> None:
        self._chunk = min(BATCH, self.context_limit)
        self._logit_rows = max(1, min(self._chunk, LOGIT_BYTES // (4 * self.vocab_size)))
        parameters = self._api.llama_context_default_params()
        parameters.n_ctx = self.context_limit
        parameters.n_batch = parameters.n_ubatch = self._chunk
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.type_k, parameters.type_v = KV_TYPES[type_k], KV_TYPES[type_v]
        parameters.swa_full = False
        if hasattr(parameters, "n_outputs_max"):  # newer llama.cpp: reserves logits for this many tokens only
            parameters.n_outputs_max = self._logit_rows
        self._context = self._api.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise InputError(
                f"{path}: llama.cpp cannot open a context of {self.context_limit} tokens with {type_k} keys and "
                f"{type_v} values ({self._library.last_errors()})"
            )
        self._batch = self._api.llama_batch_init(self._chunk, 0, 1)
        for i in range(self._chunk):  # every token belongs to the one sequence
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0

    def _evaluate(self, tokens: Sequence[int], *, every: bool) -> Logits:
        """Run one chunk; returns a view of llama.cpp's logits, valid until the next call."""
        count = len(tokens)
        batch = self._batch
        batch.n_tokens = count
        _view(batch.token, count)[:] = tokens
        _view(batch.pos, count)[:] = range(self._position, self._position + count)
        flags = _view(batch.logits, count)
        flags[:] = every
        flags[-1] = True
        status = self._api.llama_decode(self._context, batch)
        if status:
            raise fail(f"evaluating {count} tokens at position {self._position} returned {status}")
        self._position += count
        rows = count if every else 1
        return np.ctypeslib.as_array(self._api.llama_get_logits(self._context), shape=(rows, self.vocab_size))


def _view(pointer: Any, count: int) -> Any:
    return np.ctypeslib.as_array(pointer, shape=(count,))
