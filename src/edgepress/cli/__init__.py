"""The command line: parse, call one function of the pipeline, print.

Errors become one line on stderr and the exit code of their kind (see ``edgepress.errors``): 1 failed, 2 wrong usage or
input, 3 done but a stated budget was missed. With ``--json`` stdout is one document; everything else goes to stderr.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

from edgepress.artifact.files import is_disk_full
from edgepress.cli.app import app
from edgepress.errors import EdgepressError

_INTERRUPTED = 130  # what typer exits with on Ctrl-C, as shells do
# Click's, or that of the copy of click which later typers bring.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")


def main() -> None:
    """Entry point of the ``edgepress`` command."""
    try:
        ending = app(sys.argv[1:] or ["--help"], prog_name="edgepress", standalone_mode=False)
        if ending == _INTERRUPTED:
            raise typer.Abort
        sys.exit(ending)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "edgepress"
        _fail(f"{error.format_message().rstrip('.')} (see '{command} --help')", 2)
    except typer.Abort as error:
        if isinstance(error.__cause__, EOFError):
            _fail(f"a file or the input ends too early: {error.__cause__ or 'nothing was left to read'}", 1)
        _fail("interrupted; run the same command to go on", _INTERRUPTED)
    except EdgepressError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        hint = "; the disk is full: free some space and run the same command again" if is_disk_full(error) else ""
        _fail(f"{where}{error.strerror or error}{hint}", 2)
    except MemoryError:
        _fail("out of memory; see the peak that 'edgepress run --dry-run' states", 1)


def _fail(message: str, code: int) -> None:
    if sys.stdout is not None:  # closed by the caller
        sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
