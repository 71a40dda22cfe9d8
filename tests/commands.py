"""The command line, run in this process (quick) or in one of its own (true to life)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from edgepress.cli import main


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output as one JSON document, and nothing but that; no NaN, which JSON does not have."""
        assert self.code == 0, self.err
        return json.loads(self.out, parse_constant=_refuse)

    def error(self) -> str:
        """The message of a refusal: one line on stderr, nothing on stdout, exit code 2."""
        assert self.code == 2, (self.code, self.err)
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def edgepress(*arguments: str | Path, stdin: str = "") -> Finished:
    """Run a command in this process, as the installed program would."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["edgepress", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8")), encoding="utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
    return Finished(code, out.getvalue(), err.getvalue())


def program() -> list[str]:
    """The command that starts the program in a process of its own."""
    return [sys.executable, "-c", "from edgepress.cli import main; main()"]


def edgepress_process(*arguments: str | Path, **environment: str) -> Finished:
    """Run a command in a process of its own, with some of the environment changed."""
    command = [*program(), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    return Finished(done.returncode, done.stdout, done.stderr)
