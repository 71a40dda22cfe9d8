"""Starting a worker, following it, and saying in one line what became of it when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

import msgspec
import psutil

from edgepress.benchmarks.worker import Failure, Message, Progress, Result, WorkerRequest
from edgepress.errors import EdgepressError, InputError
from edgepress.huge_pages import without_huge_pages

COMMAND = (sys.executable, "-m", "edgepress.benchmarks.worker")

_CRASHED = "the engine crashed; the file may be damaged or of a kind that this build does not know"
_SIGNALS = {
    signal.SIGKILL: "the system kills for lack of memory; use a smaller format, a smaller context or a smaller prompt",
    signal.SIGILL: "the engine was built for another processor; reinstall it on this machine",
    signal.SIGSEGV: _CRASHED,
    signal.SIGABRT: _CRASHED,
    signal.SIGBUS: _CRASHED,
    signal.SIGFPE: _CRASHED,
    signal.SIGTERM: "somebody stopped it",
}


def run_worker(
    request: WorkerRequest, advance: Callable[[int], None] = lambda _: None, command: Sequence[str] = COMMAND
) -> Result:
    """Measure in a process of its own.

    Args:
        request: what to measure.
        advance: called with 1 for the warm-up and for each repetition.
        command: what to start.

    Raises:
        InputError: the worker refused its input.
        EdgepressError: the worker failed or was killed; names the signal and what it suggests.
    """
    available = psutil.virtual_memory().available
    # Modules in the current directory are not the worker's.
    environment = without_huge_pages(os.environ) | {"PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        try:
            last = _follow(process, msgspec.json.encode(request), advance)
        finally:
            process.kill()  # does nothing after a regular end
            code = process.wait()
        if isinstance(last, Result) and code == 0:
            return last
        if isinstance(last, Failure):
            raise (InputError if last.exit_code == InputError.exit_code else EdgepressError)(last.message)
        raise EdgepressError(f"{request.path}: {_death(code, available)}{_last_line(errors)}")


def _follow(process: subprocess.Popen[bytes], request: bytes, advance: Callable[[int], None]) -> Message | None:
    """Hand the request over and read messages until the worker closes its output; return the last."""
    assert process.stdin and process.stdout
    last: Message | None = None
    with suppress(BrokenPipeError), process.stdin:  # died before it read: the exit code tells
        process.stdin.write(request)
    with process.stdout:
        for line in process.stdout:
            with suppress(msgspec.DecodeError):  # not ours: printed before the worker claimed its output
                last = msgspec.json.decode(line, type=Message)
                advance(isinstance(last, Progress))
    process.wait()
    return last


def _death(code: int, available: int) -> str:
    if code >= 0:
        return f"the measuring process ended with code {code} and no result"
    number = -code
    known = {int(key): text for key, text in _SIGNALS.items()}
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = known.get(number, "see the engine's messages")
    return f"the measuring process was killed by {name} ({hint}; {available >> 20} MiB were free before it started)"


def _last_line(errors: IO[bytes]) -> str:
    """The last line the worker wrote to stderr, which of a traceback is the error itself."""
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return f"; its last words: {lines[-1][:300]}" if lines else ""
