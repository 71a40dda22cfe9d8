"""Whether llama.cpp's kernels for the processor's tile unit (AMX) work in the build that is installed.

GCC drops all but the first bytes of the tile configuration that llama.cpp loads, and the processor answers with a
fault: every model ends in a crash where a build has these kernels and the machine has AMX (ggml-org/llama.cpp, issue
20824 and pull request 26954). A crash cannot be caught, so a process of its own multiplies once; what came of it is
kept for that build and machine. A build without AMX is not asked.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.artifact.cache import cached
from edgepress.errors import EdgepressError
from edgepress.progress import say

_ANSWER = "works"
_FLAGS = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
_TRIAL_S = 120
_WRONG = 3  # exit code of a trial whose product is wrong
_CRASHES = {-signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGFPE, _WRONG}
_ROWS, _COLUMNS, _TOKENS = 64, 256, 4


def extra_kernels_work(api: Any) -> bool:
    """Whether weights may be repacked for the processor; says so when they may not.

    Args:
        api: the module ``llama_cpp``.
    """
    if b"AMX_INT8 = 1" not in api.llama_print_system_info():
        return True
    try:
        works = (cached("llama.cpp-kernels", _key(api), _try) / _ANSWER).exists()
    except EdgepressError as error:
        say(f"llama.cpp: whether its AMX kernels work could not be tried ({error}); weights are not repacked this time")
        return False
    if not works:
        say(
            "llama.cpp: this build crashes in its AMX kernels on this processor, so weights are not repacked, which is "
            f"slower; mend it with CMAKE_ARGS=\"-DCMAKE_C_FLAGS='{_FLAGS}' -DCMAKE_CXX_FLAGS='{_FLAGS}'\" "
            "pip install --force-reinstall --no-deps --no-cache-dir llama-cpp-python"
        )
    return works


def _key(api: Any) -> str:
    """Changes with the build and with what it finds on the machine."""
    files = sorted(Path(str(api.__file__)).parent.rglob("libggml*"))
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((stamps, api.llama_print_system_info())).encode()).hexdigest()[:32]


def _try(folder: Path) -> None:
    """Leave an answer in ``folder`` where a process multiplies and lives."""
    if _succeeds([sys.executable, "-m", __name__]):
        (folder / _ANSWER).touch()


def _succeeds(command: list[str]) -> bool:
    """Whether a command ends well; False where it crashes or multiplies wrong.

    Raises:
        EdgepressError: it ends otherwise, or not in time, which says nothing about the kernels.
    """
    try:
        code = subprocess.run(command, capture_output=True, timeout=_TRIAL_S, check=False).returncode
    except subprocess.TimeoutExpired:
        raise EdgepressError(f"not done after {_TRIAL_S} s") from None
    if code and code not in _CRASHES:
        raise EdgepressError(f"exit code {code}")
    return code == 0


def _multiply_once() -> int:
    """Compare a product with the same in numpy; the exit code. Rounding to 8 bits is all that may be between them."""
    from edgepress.runtime.ggml_product import GgmlProduct

    with GgmlProduct("q8_0", (_ROWS, _COLUMNS), tokens=_TOKENS, copies=1, threads=2, repacked=True) as product:
        product.run()
        weights = np.resize(product.pattern, (_ROWS, _COLUMNS))
        error = np.abs(product.output() - product.input @ weights.T).max()
    return 0 if error < 0.05 * np.sqrt(_COLUMNS) else _WRONG


if __name__ == "__main__":
    sys.exit(_multiply_once())
