"""A command that trains starts itself again in huge pages; nothing else does, and no measured process inherits it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress.huge_pages import are_there, as_command, in_huge_pages, without_huge_pages

GIVEN = b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1"  # as far as the first colon, which glibc overwrites
HERE = are_there(os.confstr("CS_GNU_LIBC_VERSION") or "", "[madvise]")


@pytest.mark.parametrize(
    ("started", "wanted"),
    [
        (["python", "/opt/bin/edgepress", "run", "x"], ["/opt/bin/edgepress", "run", "x"]),
        (["python3", "-m", "edgepress", "distill"], ["-m", "edgepress", "distill"]),
        (["python", "-m", "pytest", "edgepress"], []),
        (["python", "-c", "main()", "edgepress"], []),
        (["python"], []),
    ],
)
def test_only_a_command_is_started_again(started: list[str], wanted: list[str]) -> None:
    assert as_command(started) == wanted


@pytest.mark.parametrize(
    ("libc", "mode", "wanted"),
    [
        ("glibc 2.35", "always [madvise] never", True),
        ("glibc 2.41", "[always] madvise never", True),
        ("glibc 2.34", "always [madvise] never", False),
        ("glibc 2.36", "always madvise [never]", False),
        ("glibc 2.36", "", False),
        ("musl 1.2", "always [madvise] never", False),
        ("", "always [madvise] never", False),
    ],
)
def test_huge_pages_are_asked_for_where_glibc_and_the_kernel_have_them(libc: str, mode: str, wanted: bool) -> None:
    assert are_there(libc, mode) is wanted


def test_a_program_that_calls_edgepress_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    in_huge_pages()  # would not come back
    assert "GLIBC_TUNABLES" not in os.environ


def test_what_the_user_has_set_stays_and_ours_is_not_handed_on() -> None:
    theirs = {"GLIBC_TUNABLES": "glibc.malloc.check=1", "HOME": "/"}
    assert without_huge_pages(theirs) == theirs
    ours = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"}
    assert without_huge_pages(ours | {"HOME": "/"}) == {"HOME": "/"}


def _environment_at_work(environment: dict[str, str], folder: Path) -> bytes:
    """The environment of a training command that has begun: it waits for its settings."""
    settings = folder / "settings.yaml"
    settings.unlink(missing_ok=True)
    os.mkfifo(settings)
    arguments = ["distill", "--text", "f.txt", "--settings", str(settings), "-o", str(folder / "out")]
    command = [sys.executable, "-m", "edgepress", *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        with settings.open("w", encoding="utf-8") as pipe:  # waits for the reader
            seen = Path(f"/proc/{process.pid}/environ").read_bytes()
            pipe.write("no: such field")
        assert process.wait() == 2
    return seen


@pytest.mark.skipif(not HERE, reason="glibc before 2.35, or another C library")
def test_a_training_command_has_them_from_its_start(tmp_path: Path) -> None:
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not mode.exists() or "[never]" in mode.read_text(encoding="ascii"):
        pytest.skip("this kernel gives no huge pages")
    bare = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    assert GIVEN in _environment_at_work(bare, tmp_path)
    theirs = bare | {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
    assert b"GLIBC_TUNABLES=glibc.malloc.check=0\0" in _environment_at_work(theirs, tmp_path)
