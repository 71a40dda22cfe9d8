"""ONNX Runtime through onnxruntime-genai, the runtime that phones use, on the CPU.

onnxruntime-genai reads each layer's key-value heads from the graph's inputs, so that pruned models whose layers differ
need nothing special. Three things are set on opening, whatever ``genai_config.json`` says: the threads (the default
would be half the logical cores), the length that the key-value cache is allocated for, and a padding id that no token
has: onnxruntime-genai drops padding from the end of a prompt, and many chat models pad with the token that ends a
turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray

from edgepress.artifact.files import tree_bytes
from edgepress.errors import EdgepressError, InputError, require
from edgepress.runtime.cores import physical_cores
from edgepress.runtime.session import ClosingSession, Logits, SessionMemory, resident_bytes

_CONFIG_FILE = "genai_config.json"
_DECODER_NUMBERS = ("head_size", "num_hidden_layers", "num_key_value_heads")
_NO_PADDING = -1
# The engine keeps the logits of all tokens of a call: prompts are cut so that these stay within this.
_LOGITS_BYTES = 1 << 27
_MAX_TOKENS_A_CALL = 512


class OrtGenaiSession(ClosingSession):
    """A Session over a directory with ``genai_config.json``, a graph and its weights."""

    engine = "onnxruntime"
    engine_version: str

    def __init__(self, directory: Path, *, context: int | None = None, threads: int | None = None) -> None:
        """Load the model.

        Args:
            directory: what :func:`edgepress.export.onnx.writer.export_onnx` writes.
            context: tokens that the key-value cache is allocated for; None takes the model's limit.
            threads: CPU threads; None takes the physical cores this process may use.

        Raises:
            InputError: the directory is damaged or wants a provider or library of its own, or the context is beyond
                the model's limit.
        """
        self._genai = require("onnxruntime_genai", "onnx")
        runtime = require("onnxruntime", "onnx")
        self.engine_version = f"onnxruntime {runtime.__version__}, onnxruntime-genai {self._genai.__version__}"
        settings = _read_config(directory)
        self.vocab_size = int(settings["vocab_size"])
        self.context_limit = _context(context, int(settings["context_length"]))
        decoder = settings["decoder"]
        self._key_names = [
            str(decoder["inputs"]["past_key_names"]).replace("%d", str(i)) for i in range(decoder["num_hidden_layers"])
        ]
        _refuse_too_large(directory, decoder, self.context_limit)
        self._weights_bytes = sum(tree_bytes(file) for file in directory.glob("*.onnx*"))
        self._call_tokens = max(1, min(_MAX_TOKENS_A_CALL, _LOGITS_BYTES // (4 * self.vocab_size)))
        try:
            self._model = self._load(directory, threads or physical_cores())
            self._generator = self._new_generator()
        except RuntimeError as error:
            raise InputError(f"{directory}: ONNX Runtime cannot open this model: {one_line(error)}") from error

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return int(self._generator.token_count())

    def prefill(self, tokens: Sequence[int], *, logits: Literal["all", "last"] = "all") -> Logits:
        """See :class:`~edgepress.runtime.session.Session`."""
        self.check_tokens(tokens, self.position)
        ids = np.asarray(tokens, dtype=np.int32)
        rows = np.empty((len(ids) if logits == "all" else 1, self.vocab_size), dtype=np.float32)
        for start in range(0, len(ids), self._call_tokens):
            call = ids[start : start + self._call_tokens]
            self._append(call)
            if logits == "all":
                rows[start : start + len(call)] = self._generator.get_output("logits")[0]
        if logits == "last":
            rows[0] = self._generator.get_logits().reshape(-1)
        return rows

    def decode(self, token: int) -> Logits:
        """See :class:`~edgepress.runtime.session.Session`."""
        row: Logits = self.prefill([token], logits="last")[0]
        return row

    def reset(self) -> None:
        """Empty the cache."""
        self._generator.rewind_to(0)

    def memory(self) -> SessionMemory:
        """Bytes held now. The cache is allocated for the whole context when the session opens; weights are counted
        as they are in the files.
        """
        cache = sum(2 * self._generator.get_input(name).nbytes for name in self._key_names)
        return SessionMemory(weights_bytes=self._weights_bytes, kv_cache_bytes=cache, rss_bytes=resident_bytes())

    def close(self) -> None:
        """Free the model; the generator goes first."""
        self._generator = None
        self._model = None

    def _append(self, tokens: NDArray[np.int32]) -> None:
        try:
            self._generator.append_tokens(tokens)
        except RuntimeError as error:
            raise EdgepressError(f"ONNX Runtime failed on {len(tokens)} tokens: {one_line(error)}") from error

    def _load(self, directory: Path, threads: int) -> Any:
        config = self._genai.Config(str(directory))
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"pad_token_id": _NO_PADDING, "decoder": {"session_options": options}}}))
        return self._genai.Model(config)

    def _new_generator(self) -> Any:
        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=self.context_limit)
        return self._genai.Generator(self._model, parameters)


def _context(wanted: int | None, limit: int) -> int:
    if wanted is not None and not 0 < wanted <= limit:
        raise InputError(f"a context of {wanted} tokens was asked for; this model takes 1 to {limit}")
    return wanted or limit


def _refuse_too_large(directory: Path, decoder: dict[str, Any], context: int) -> None:
    """Say so before the kernel kills the process: the cache is allocated and zeroed at once."""
    values = 2 * decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"] * context
    needed, free = 4 * values, psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{directory}: a context of {context} tokens needs {needed >> 20} MiB of key-value cache, "
            f"{free >> 20} MiB are free; open it with a smaller context"
        )


def _read_config(directory: Path) -> dict[str, Any]:
    """The ``model`` part of ``genai_config.json``, refused where it would run something else than the CPU kernels."""
    path = directory / _CONFIG_FILE
    try:
        model: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["model"]
        decoder = model["decoder"]
        numbers = [model["vocab_size"], model["context_length"], *(decoder[name] for name in _DECODER_NUMBERS)]
        if not all(isinstance(number, int) and 0 < number < 1 << 31 for number in numbers):
            raise ValueError("a size that is not a positive integer")
        decoder["inputs"]["past_key_names"]
        _refuse_foreign_code(path, decoder.get("session_options", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: missing or damaged ({reason}); export the model again") from error
    return model


def _refuse_foreign_code(path: Path, options: dict[str, Any]) -> None:
    """Nothing but the CPU kernels: no provider that could fall back silently, no library from the directory."""
    providers = [name for entry in options.get("provider_options", []) for name in entry if name.lower() != "cpu"]
    if providers:
        raise InputError(f"{path}: asks for the provider {providers[0]}; this session runs on the CPU, remove it there")
    if options.get("custom_ops_library"):
        raise InputError(f"{path}: wants to load the library {options['custom_ops_library']!r}, which is not allowed")


def one_line(error: Exception) -> str:
    """The reason inside an onnxruntime message, which starts with a C++ signature."""
    text = " ".join(str(error).split())
    return text.rpartition("[ONNXRuntimeError]")[2].lstrip(" :")[:300]
