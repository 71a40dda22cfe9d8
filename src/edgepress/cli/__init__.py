"""The command line: parse, call one function of the pipeline, print.

Errors become one line on stderr and the exit code of their kind (see ``edgepress.errors``): 1 failed, 2 wrong usage or
input, 3 done but a stated budget was missed. With ``--json`` stdout is one document; everything else goes to stderr.
"""

from __future__ import annotations

import errno
import sys

from edgepress.cli.app import app
from edgepress.errors import EdgepressError


def main() -> None:
    """Entry point of the ``edgepress`` command."""
    try:
        app(prog_name="edgepress")
    except EdgepressError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command to go on", 130)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        _fail(f"{where}{error.strerror or error}" + ("; free some space and run it again" if full else ""), 2)
    except MemoryError:
        _fail("out of memory; see the peak that 'edgepress run --dry-run' states", 1)


def _fail(message: str, code: int) -> None:
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
