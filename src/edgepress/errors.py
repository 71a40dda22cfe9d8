"""What can go wrong, and the exit code that each kind carries.

    EdgepressError            1   the work failed
    ├── InputError            2   wrong usage or wrong input; the message says what was wanted, what came and what to do
    │   └── MissingExtraError 2   an optional dependency is not installed; the message names the extra
    ├── ParityError           1   an exported file does not match its source; nothing was written under the final name
    └── BudgetNotMetError     3   done, but a stated budget was missed; the best effort is kept

Messages are one line: the command line prints them as they are.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType


class EdgepressError(Exception):
    """Base of every error that edgepress raises on purpose."""

    exit_code = 1


class InputError(EdgepressError, ValueError):
    """The user's input cannot be worked with."""

    exit_code = 2


class MissingExtraError(InputError):
    """An optional dependency is missing."""


class ParityError(EdgepressError):
    """An exported file does not reproduce the integers or the logits that it was made from."""


class BudgetNotMetError(EdgepressError):
    """The work is done, but a stated budget or gate was not met."""

    exit_code = 3


def require_installed(module: str, extra: str) -> None:
    """Say in one line which extra brings an optional dependency that is not there; it is not imported yet.

    Raises:
        MissingExtraError: the module is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise _missing(module, extra)


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say in one line which extra brings it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(error.name or module, extra) from error


def _missing(module: str, extra: str) -> MissingExtraError:
    return MissingExtraError(f"{module} is not installed; run: pip install 'edgepress[{extra}]'")
