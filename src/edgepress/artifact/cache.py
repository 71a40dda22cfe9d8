"""The cache on disk: directories named by what they were made from, so that a second run finds them.

``<cache>/<kind>/<key>``; the key is a digest of everything the content depends on, so that nothing goes stale. An entry
appears whole or not at all, also when two processes want it at once or one is killed halfway.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgepress.artifact.files import atomic_directory, home_path
from edgepress.errors import InputError


def cache_dir() -> Path:
    """Where the cache lives: ``EDGEPRESS_CACHE``, else ``XDG_CACHE_HOME/edgepress``, else ``~/.cache/edgepress``.

    Raises:
        InputError: there is no home directory, and neither variable is set.
    """
    chosen = os.environ.get("EDGEPRESS_CACHE")
    if chosen:
        return home_path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "edgepress"
    try:
        return Path.home() / ".cache" / "edgepress"
    except RuntimeError as error:
        raise InputError("no home directory for the cache; set EDGEPRESS_CACHE to a directory for it") from error


def cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The directory of an entry, made on the first call.

    Args:
        kind: what sort of thing it is; the folder below the cache.
        key: a file name that changes with the content.
        make: fills the empty directory that it is given. What it raises passes through, and nothing is kept.

    Raises:
        InputError: the cache cannot be written, or the disk is full.
    """
    final = cache_dir() / kind / key
    if final.is_dir():
        return final
    with _locked(final):
        if not final.is_dir():
            with atomic_directory(final) as working:
                make(working)
    return final


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    """Wait for other processes that make the same entry. The kernel lets go of the lock when its holder dies."""
    lock = final.with_name(f".{final.name}.lock")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
    except OSError as error:
        raise InputError(
            f"the cache {cache_dir()} cannot be written ({error.strerror}); set EDGEPRESS_CACHE to another directory"
        ) from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
