"""A teacher's distributions on disk, so that it runs once however often a student reads the text.

Cut into shards of whole windows. A shard is an entry of the cache, named by the digest of the teacher, of the shard's
windows and of k: it appears whole or not at all, so that a killed run goes on after its last whole shard, and one that
reads more windows behind the same ones pays only for those. Shards are mapped into memory when they are read.

Record t of a window is the teacher's distribution *after* token t, of token t + 1; the last token has none.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.cache import cache_dir, cached
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.bfloat16 import bfloat16_products
from edgepress.compress.distill.config import TEMPERATURES
from edgepress.compress.distill.half_logits import likeliest
from edgepress.compress.distill.precision import CPU, multiplying
from edgepress.compress.distill.top_k import Arrays, TopK, arrays, pack, shapes, unpack
from edgepress.errors import InputError
from edgepress.progress import progress

_VERSION = 2
_FOLDER = "teacher"
_SHARD_TOKENS = 16384
_TOKENS_AT_ONCE = 256  # of which all logits are held
_PACKED_AT_ONCE = 16  # whose logits stay in the processor's cache meanwhile
_WINDOW_TOKENS_AT_ONCE = 2048


class TeacherCache:
    """A teacher's k likeliest tokens and the rest, after every token of a text; what is missing is computed first.

    Raises:
        InputError: a shard on disk is damaged.
    """

    def __init__(
        self,
        teacher: WeightSource,
        windows: NDArray[np.int32],
        k: int,
        *,
        in_bfloat16: bool = False,
        device: torch.device = CPU,
    ) -> None:
        """Open, and complete, the cache.

        Args:
            teacher: the model.
            windows: token ids, int32, (samples, length), length at least 2.
            k: likeliest tokens to keep, no more than the vocabulary has.
            in_bfloat16: how the teacher multiplies; the other way is another cache.
            device: where it runs, which makes no other cache.
        """
        vocab, (count, length) = teacher.spec.vocab, windows.shape
        self._records, self._k, self._vocab = length - 1, k, vocab
        self._each = max(1, _SHARD_TOKENS // length)
        writer = _Writer(teacher, k, in_bfloat16, device)
        arithmetic = "halves" if writer.in_halves else in_bfloat16
        self._shards: list[Arrays] = []
        with progress("teacher", count * length, unit="tokens") as advance:
            for start in range(0, count, self._each):
                part = windows[start : start + self._each]
                directory = cached(_FOLDER, _key(teacher, part, k, arithmetic), partial(writer.write, part))
                self._shards.append(self._open(directory, len(part)))
                advance(part.size)

    def read(self, window: int, counted: NDArray[np.bool_], temperature: float) -> TopK:
        """The distributions of a window's records that ``counted``, bool, (length - 1,), selects.

        Args:
            window: its number in the text.
            counted: which records.
            temperature: one of ``TEMPERATURES``.
        """
        place, row = divmod(window, self._each)
        rows = slice(row * self._records, (row + 1) * self._records)
        found = unpack({name: array[rows][counted] for name, array in self._shards[place].items()}, temperature)
        highest = int(found.ids.max()) if found.ids.numel() else 0
        if highest >= self._vocab:
            raise InputError(
                f"the teacher's cache is damaged: token {highest} of a vocabulary of {self._vocab}; remove "
                f"{cache_dir() / _FOLDER} and run the command again"
            )
        return found

    def _open(self, directory: Path, windows: int) -> Arrays:
        found: Arrays = {}
        for name, (shape, kind) in shapes(windows * self._records, self._k, self._vocab).items():
            path = directory / f"{name}.npy"
            try:
                found[name] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise InputError(f"{path}: damaged ({error}); remove {directory} and run the command again") from error
            if found[name].shape != shape or found[name].dtype != kind:
                raise InputError(
                    f"{path}: has {found[name].dtype} {list(found[name].shape)}, wanted {kind} {list(shape)}; "
                    f"remove {directory} and run the command again"
                )
        return found


class _Writer:
    """Runs the teacher, which is loaded when the first shard is missing."""

    def __init__(self, teacher: WeightSource, k: int, in_bfloat16: bool, device: torch.device) -> None:
        self._teacher, self._k, self._in_bfloat16, self._device = teacher, k, in_bfloat16, device
        self._model: Any = None
        self._halves: torch.Tensor | None = None
        self.in_halves = in_bfloat16 and device.type == "cpu"

    def write(self, windows: NDArray[np.int32], directory: Path) -> None:
        from edgepress.runtime.torch_reference import load_model

        if self._model is None:
            self._model = load_model(self._teacher).to(self._device)
        parts = self._packed(windows)
        for name in parts[0]:
            np.save(directory / f"{name}.npy", np.concatenate([part[name] for part in parts]))

    @torch.inference_mode()
    def _packed(self, windows: NDArray[np.int32]) -> list[Arrays]:
        each = max(1, _WINDOW_TOKENS_AT_ONCE // windows.shape[1])
        parts: list[Arrays] = []
        for batch in torch.from_numpy(windows.astype(np.int64)).split(each):
            with multiplying(self._in_bfloat16, self._device):
                states = self._model.model(batch.to(self._device), use_cache=False).last_hidden_state
            hidden = states.float()[:, :-1].flatten(0, 1)
            parts += [part for rows in hidden.split(_TOKENS_AT_ONCE) for part in self._distributions(rows)]
        return parts

    def _distributions(self, hidden: torch.Tensor) -> list[Arrays]:
        head = self._model.lm_head.weight
        if self.in_halves:
            logits = hidden.bfloat16() @ self._half_head(head).T
            return [arrays(*likeliest(logits, hidden, head, self._k), len(head))]
        with bfloat16_products(self._in_bfloat16):
            return [pack(few, self._k) for few in (hidden @ head.T).split(_PACKED_AT_ONCE)]

    def _half_head(self, head: torch.Tensor) -> torch.Tensor:
        if self._halves is None:
            self._halves = head.bfloat16()
        return self._halves


def _key(teacher: WeightSource, windows: NDArray[np.int32], k: int, arithmetic: bool | str) -> str:
    facts = (_VERSION, teacher.digest(), windows.shape, k, TEMPERATURES, arithmetic)
    total = hashlib.sha256(repr(facts).encode())
    total.update(np.ascontiguousarray(windows, "<i4").tobytes())
    return total.hexdigest()
