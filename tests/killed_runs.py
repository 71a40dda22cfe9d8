"""Runs of the command line that are killed before their n-th change of the disk.

A process with everything imported forks for each run, so that a run costs what its work costs. In the child an audit
hook sees what Python is about to do to the disk below a root: open for writing, rename, make or remove. It counts, and
at a given count kills its own process with SIGKILL. Nothing of edgepress is replaced.

As a program: reads runs from stdin and prints outcomes, one JSON document a line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from typing_extensions import Self

WATCHED = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}
# What a run imports on its way; with it in place a fork costs what its work costs.
HEAVY = (
    "accelerate",
    "gguf",
    "jinja2.sandbox",
    "llama_cpp",
    "onnx.helper",
    "onnxruntime_genai",
    "plotly.graph_objects",
    "plotly.io",
    "transformers.models.llama.modeling_llama",
    "edgepress.compress.student.open",
    "edgepress.pipeline.whole",
    "edgepress.benchmarks.report.page",
    "edgepress.runtime.ort_genai",
    "edgepress.runtime.torch_reference",
    "edgepress.export.gguf.writer",
    "edgepress.export.onnx.writer",
)


@dataclass(frozen=True)
class Run:
    """A command, where its cache is, and before which change it is killed; None lets it end."""

    command: tuple[str, ...]
    cache: str
    root: str
    kill_at: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code, or minus the signal; and the changes that it made, as event and path."""

    code: int
    changes: tuple[tuple[str, str], ...]
    err: str


class Runner:
    """The process that forks. Use with ``with``."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def perform(self, *runs: Run) -> list[Outcome]:
        """Perform runs one after the other."""
        return [self._perform(run) for run in runs]

    def _perform(self, run: Run) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(run)), file=self._process.stdin, flush=True)
        entry = json.loads(self._process.stdout.readline())
        return Outcome(entry["code"], tuple((event, path) for event, path in entry["changes"]), entry["err"])


def _main() -> None:
    for name in HEAVY:
        import_module(name)
    from edgepress.cli import main

    for line in sys.stdin:
        print(json.dumps(_fork(Run(**json.loads(line)), main)), flush=True)


def _fork(run: Run, main: Any) -> dict[str, Any]:
    log, err = Path(run.root).with_suffix(".log"), Path(run.root).with_suffix(".err")
    child = os.fork()
    if child == 0:
        _child(run, main, log, err)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes = [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines()]
    return {"code": code, "changes": changes, "err": err.read_text(encoding="utf-8")}


def _child(run: Run, main: Any, log: Path, err: Path) -> None:
    os.environ["EDGEPRESS_CACHE"] = run.cache
    sys.argv = ["edgepress", *run.command]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for stream, path in ((1, os.devnull), (2, str(err))):
        os.dup2(os.open(path, flags), stream)
    _watch(run, os.open(log, flags))
    code = 1
    try:
        main()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def _watch(run: Run, log: int) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in WATCHED and not (event == "open" and _writes(arguments)):
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        if not path.startswith(run.root):  # commands name absolute paths
            return
        seen += 1
        if seen == run.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(log, f"{event}\t{path}\n".encode())

    sys.addaudithook(hook)


def _writes(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))


if __name__ == "__main__":
    _main()
