"""Loops that arrays cannot express well: compiled by numba, run over bands of rows in threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import torch
from numba import njit

_FUNCTIONS = 12  # more than a kernel consists of; each is compiled and kept by itself
_FEW = 32  # rows that are not worth a thread


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """A function of arrays and numbers as machine code, compiled at the first call and without the interpreter's lock.

    The code is kept for later processes where a cache directory can be written. numba does not see changes in functions
    of other modules, so a kernel and what it calls belong in one file.
    """
    return _machine_code(function, ())


def compiled_in_any_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`compiled`, sums being made in the order that is the fastest here: always the same on one processor."""
    return _machine_code(function, ("reassoc", "contract", "nsz"))


def _machine_code(function: Callable[..., Any], freedoms: tuple[str, ...]) -> Callable[..., Any]:
    compiler = partial(njit, nogil=True, error_model="numpy", fastmath=set(freedoms))
    try:
        return compiler(cache=True)(function)
    except RuntimeError:  # neither beside the module nor in the user's home
        return compiler()(function)


def in_bands(kernel: Callable[[int, int], None], rows: int, few: int = _FEW) -> None:
    """Call ``kernel(start, stop)`` on bands that make up ``rows``, on as many threads as torch uses.

    Args:
        kernel: of the first row and the one behind the last.
        rows: how many there are.
        few: of them, that are not worth a thread.
    """

    def run(start: int, stop: int) -> None:
        for attempt in range(_FUNCTIONS):
            try:
                kernel(start, stop)
                return
            except OSError:  # as on a full disk: compiled and not kept, which numba says once, before it runs anything
                if attempt == _FUNCTIONS - 1:
                    raise

    bands = min(torch.get_num_threads(), rows // few)
    if bands <= 1:
        run(0, rows)
        return
    edges = [rows * part // bands for part in range(bands + 1)]
    for _ in _pool(torch.get_num_threads()).map(run, edges[:-1], edges[1:]):
        pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


# A forked process has the pool, and none of its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
