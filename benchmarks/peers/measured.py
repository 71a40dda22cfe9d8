"""Runs a command as a child process and measures it: wall time, processor time, the most memory it held.

The kernel's maximum (ru_maxrss) of a process starts at what its parent held when it was forked, so a small command that
is started by a large process would be charged with its parent. A bare interpreter therefore stands between: it starts
the command, waits for it with wait4, and hands the figures back, exact above the few megabytes that it holds itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from edgepress.errors import EdgepressError
from edgepress.progress import say

Word = str | Path

# Its arguments: a file descriptor for the figures, then the command. 127 is a shell's code for what cannot be started.
_BETWEEN = """
import json, os, sys
to, words = int(sys.argv[1]), sys.argv[2:]
child = os.fork()
if not child:
    os.close(to)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)
_, status, usage = os.wait4(child, 0)
figures = {"code": os.waitstatus_to_exitcode(status), "cpu_s": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss}
os.write(to, json.dumps(figures).encode())
"""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A finished child process: what was run, how long it took and the most memory it held."""

    command: tuple[str, ...]
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


def run_measured(
    command: Sequence[Word], log: Path, environment: Mapping[str, str] | None = None, *, errors: Path | None = None
) -> Run:
    """Run a command with its output in ``log``, and what it says on stderr in ``errors`` where that is given.

    Raises:
        EdgepressError: it failed; says where its output is.
    """
    words = tuple(str(word) for word in command)
    say("$ " + " ".join(words))
    receive, send = os.pipe()
    started = time.perf_counter()
    with ExitStack() as files:
        figures = files.enter_context(os.fdopen(receive, encoding="ascii"))
        out = files.enter_context(log.open("w", encoding="utf-8"))
        err = files.enter_context(errors.open("w", encoding="utf-8")) if errors else out
        between = [sys.executable, "-I", "-S", "-c", _BETWEEN, str(send), *words]
        variables = {**os.environ, **(environment or {})}
        try:
            child = files.enter_context(
                subprocess.Popen(
                    between, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=variables, pass_fds=(send,)
                )
            )
        finally:
            os.close(send)
        child.wait()
        wall_s = time.perf_counter() - started
        told = json.loads(figures.read() or "{}")
    code = told.get("code", child.returncode)
    if code or not told:
        raise EdgepressError(f"{Path(words[0]).name} failed with exit code {code}; its output is in {errors or log}")
    return Run(command=words, wall_s=wall_s, cpu_s=told["cpu_s"], peak_rss_bytes=told["peak"] * 1024)
