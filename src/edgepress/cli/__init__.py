"""The command line: parse, call one function of the pipeline, print.

Errors become one line on stderr and the exit code of their kind (see ``edgepress.errors``): 1 failed, 2 wrong usage or
input, 3 done but a stated budget was missed. With ``--json`` stdout is one document; everything else goes to stderr.
"""

from __future__ import annotations

import sys

from edgepress.artifact.files import is_disk_full
from edgepress.cli.app import app
from edgepress.errors import EdgepressError

_INTERRUPTED = 130  # what typer exits with on Ctrl-C, as shells do


def main() -> None:
    """Entry point of the ``edgepress`` command."""
    try:
        app(prog_name="edgepress")
    except EdgepressError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as ending:
        if ending.code == _INTERRUPTED:
            _fail("interrupted; run the same command to go on", _INTERRUPTED)
        raise
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
