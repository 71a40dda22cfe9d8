"""Reference logits on disk: computed once by the uncompressed student, used for every artifact made from it.

    ROOT/reference-logits/<reference and protocol>/<window>/codes.u8        uint8, positions × vocabulary
                                                            positions.npz   the other arrays of PackedPositions

A window's name is the hash of its tokens, so that a longer run over the same text, or another text that shares windows,
finds what is there. A window directory appears by rename when it is complete: a killed run goes on with the next one.
Beyond ``limit_bytes`` the windows used longest ago are deleted, never those of the run at hand.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.files import atomic_directory, tree_bytes
from edgepress.benchmarks.packed_reference import HEAD, PackedPositions, pack
from edgepress.benchmarks.windows import Tokens, window_logits, windows_sha256
from edgepress.errors import InputError
from edgepress.progress import progress, say
from edgepress.runtime.session import Session

PROTOCOL_VERSION = 1  # raise it when a stored window would mean something else
DEFAULT_LIMIT_BYTES = 8 * 10**9

_CODES, _POSITIONS = "codes.u8", "positions.npz"


class ReferenceLogits:
    """The reference's packed distributions over a set of windows.

    Args:
        root: the cache directory; everything lies below ``root/reference-logits``.
        digest: identifies the reference's weights and engine; any string.
        windows: (n, C) token ids.
        open_session: opens the reference; called only when a window is not there yet.
        limit_bytes: what the whole cache may occupy before old windows go.
    """

    def __init__(
        self,
        root: Path,
        digest: str,
        windows: Tokens,
        open_session: Callable[[], Session],
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
    ) -> None:
        self.digest = digest
        self._windows = windows
        self._open_session = open_session
        self._limit_bytes = limit_bytes
        self._positions = windows.shape[1] - 1
        self._home = root / "reference-logits"
        key = hashlib.sha256(f"{PROTOCOL_VERSION}|{digest}".encode()).hexdigest()[:32]
        self._places = [self._home / key / windows_sha256(window)[:32] for window in windows]

    @property
    def windows_sha256(self) -> str:
        """Identity of the windows."""
        return windows_sha256(self._windows)

    def missing(self) -> list[int]:
        """Windows that must still be computed."""
        return [index for index, place in enumerate(self._places) if not _complete(place, self._positions)]

    def fill(self) -> None:
        """Compute what is missing, then say where the cache is and keep it within its limit.

        Raises:
            InputError: the disk cannot hold the windows.
            EdgepressError: the reference returns logits that are not finite.
        """
        with _locked(self._home):
            if missing := self.missing():
                self._compute(missing)
            for place in self._places:
                os.utime(place)  # "used now", whatever the mount's policy on access times
            evict(self._home, self._limit_bytes, keep=set(self._places))
        if missing:
            mine = sum(tree_bytes(place) for place in set(self._places))
            whole, limit = tree_bytes(self._home), self._limit_bytes
            say(
                f"reference logits: {len(self._places)} windows, {mine / 1e9:.2f} GB, in {self._home} "
                f"({whole / 1e9:.2f} GB of at most {limit / 1e9:.0f} GB)"
            )

    def load(self, index: int) -> PackedPositions:
        """A window's packed positions, the codes left on disk until they are read."""
        return _load(self._places[index])

    def _compute(self, missing: list[int]) -> None:
        with self._open_session() as session, progress("reference logits", len(missing)) as advance:
            self._check_space(len({self._places[index] for index in missing}), session.vocab_size)
            for index in missing:
                if not _complete(self._places[index], self._positions):  # the same window may stand twice in a text
                    _write(self._places[index], session, self._windows[index], f"window {index} of the reference text")
                advance(1)

    def _check_space(self, windows: int, vocab: int) -> None:
        needed, free = windows * self._positions * (vocab + 8 * HEAD + 40), shutil.disk_usage(self._home).free
        if needed > free:
            raise InputError(
                f"{self._home}: the reference logits need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
                "free some space, use fewer tokens, or set EDGEPRESS_CACHE to a larger disk"
            )


def evict(home: Path, limit_bytes: int, keep: set[Path]) -> None:
    """Delete the windows used longest ago until the cache is within its limit; ``keep`` stays in any case."""
    places = [place for place in home.glob("*/*") if place.is_dir()]
    places.sort(key=lambda place: place.stat().st_mtime_ns)
    total = sum(tree_bytes(place) for place in places)
    for place in places:
        if total <= limit_bytes:
            return
        if place not in keep:
            total -= tree_bytes(place)
            shutil.rmtree(place, ignore_errors=True)


def _write(place: Path, session: Session, window: Tokens, name: str) -> None:
    pieces: list[dict[str, NDArray[Any]]] = []
    with atomic_directory(place) as working:
        with (working / _CODES).open("wb") as stream:
            for at, logits in window_logits(session, window, name):
                arrays = pack(logits, window[1:][at]).arrays()
                stream.write(arrays.pop("codes").tobytes())
                pieces.append(arrays)
        joined: dict[str, Any] = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
        np.savez(working / _POSITIONS, **joined)


def _load(place: Path) -> PackedPositions:
    with np.load(place / _POSITIONS, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    codes = np.memmap(place / _CODES, dtype=np.uint8, mode="r")
    return PackedPositions(codes=codes.reshape(len(arrays["argmax"]), -1), **arrays)


def _complete(place: Path, positions: int) -> bool:
    """Whether a window is there and whole: a machine that lost power may have renamed more than it wrote."""
    try:
        code_bytes = (place / _CODES).stat().st_size
        with (place / _POSITIONS).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = len(stored["argmax"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
    return found == positions and code_bytes > 0 and code_bytes % positions == 0


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One filling process at a time; the kernel frees the lock when a process dies."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        stream = (home / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{home}: the cache cannot be written ({error}); set EDGEPRESS_CACHE to a folder") from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
