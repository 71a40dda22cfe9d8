"""A real file system of a few hundred kB, for tests of what happens when the disk is full.

A tmpfs in a mount namespace of the child process alone: needs no rights where the kernel lets users make namespaces,
and nothing is left to unmount. Tests skip where it does not.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def run_on_small_disk(code: str, disk: Path, kilobytes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with a new file system of ``kilobytes`` mounted at ``disk``, which exists and is empty.

    Args:
        code: what ``python -c`` gets; ``sys.argv[1]`` is the disk, the ``arguments`` follow.
        disk: an existing directory.
        kilobytes: size of the file system.
    """
    command = [sys.executable, "-c", code, str(disk), *arguments]
    return subprocess.run(_namespaced(disk, kilobytes, command), capture_output=True, text=True, check=False)


def _namespaced(disk: Path, kilobytes: int, command: list[str]) -> list[str]:
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("mount") is None:
        pytest.skip("no unshare and mount here")
    inside = [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, "sh", f"{kilobytes}k", str(disk)]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel lets no user mount a file system of their own")
    return [*inside, *command]
