"""A command that trains starts itself again in huge pages; nothing else does, and no measured process inherits it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress.huge_pages import _libc, _mode, are_there, as_command, in_huge_pages, without_huge_pages

OURS = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"


@pytest.mark.parametrize(
    ("started", "wanted"),
    [
        (["python", "/opt/bin/edgepress", "run", "x"], ["/opt/bin/edgepress", "run", "x"]),
        (["python3", "-m", "edgepress", "distill"], ["-m", "edgepress", "distill"]),
        (["python", "-u", "-X", "dev", "-m", "edgepress", "gad"], ["-u", "-X", "dev", "-m", "edgepress", "gad"]),
        (["python", "-sE", "/opt/bin/edgepress", "run"], ["-sE", "/opt/bin/edgepress", "run"]),
        (["python", "-m", "pytest", "edgepress"], []),
        (["python", "-X", "edgepress", "other.py"], []),
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
    in_huge_pages()  # from pytest, which would not come back
    assert "GLIBC_TUNABLES" not in os.environ


def test_what_the_user_has_set_stays_and_ours_is_not_handed_on() -> None:
    theirs = {"GLIBC_TUNABLES": "glibc.malloc.check=1", "HOME": "/"}
    assert without_huge_pages(theirs) == theirs
    assert without_huge_pages({"GLIBC_TUNABLES": OURS, "HOME": "/"}) == {"HOME": "/"}


# Python imports it at every start: each leaves a line, with what it found in the environment.
NOTES = """
import os
with open(os.environ["NOTES"], "a", encoding="utf-8") as notes:
    print(os.environ.get("GLIBC_TUNABLES", "none"), file=notes)
if os.environ.get("DISTRUST"):
    os.environ.pop("GLIBC_TUNABLES", None)
"""


def _starts(folder: Path, *arguments: str, python: tuple[str, ...] = (), **changes: str) -> list[str]:
    """What each start of a command that ends in a refusal found."""
    (folder / "sitecustomize.py").write_text(NOTES, encoding="utf-8")
    notes = folder / "notes.txt"
    notes.unlink(missing_ok=True)
    bare = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment = bare | {"PYTHONPATH": str(folder), "NOTES": str(notes)} | changes
    command = [sys.executable, *python, "-m", "edgepress", *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=99)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stdout == ""
    return notes.read_text(encoding="utf-8").splitlines()


def _has_huge_pages() -> bool:
    return are_there(_libc(), _mode())


needs_huge_pages = pytest.mark.skipif(not _has_huge_pages(), reason="glibc before 2.35, or a kernel without huge pages")
TRAINING = [
    ("distill", "--student", "none", "--text", "none.txt", "-o", "out"),
    ("gad", "--student", "none", "--text", "none.jsonl", "-o", "out"),
    ("run", "none", "-r", "heal.yaml", "-o", "out"),
    ("compress", "none", "-r", "heal.yaml", "-o", "out"),
]
HEAL = """
compress:
  - {step: prune_layers, drop: 1}
  - {step: distill, tokens: 4096}
  - {step: quantize, solver: nearest, format: f16}
"""


@needs_huge_pages
@pytest.mark.parametrize("arguments", TRAINING, ids=lambda arguments: arguments[0])
def test_a_training_command_starts_once_more_with_them(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "heal.yaml").write_text(HEAL, encoding="utf-8")
    assert _starts(tmp_path, *arguments) == ["none", OURS]


@needs_huge_pages
def test_options_of_python_stay(tmp_path: Path) -> None:
    assert _starts(tmp_path, *TRAINING[0], python=("-u", "-X", "dev", "-W", "ignore")) == ["none", OURS]


@needs_huge_pages
def test_it_starts_once_more_even_where_glibc_drops_the_variable(tmp_path: Path) -> None:
    assert _starts(tmp_path, *TRAINING[0], DISTRUST="1") == ["none", OURS]


def test_who_has_set_it_is_left_alone(tmp_path: Path) -> None:
    assert _starts(tmp_path, *TRAINING[0], GLIBC_TUNABLES="") == [""]


@pytest.mark.parametrize(
    "arguments",
    [("run", "none", "-r", "4bit", "-o", "out"), ("run", "none", "-r", "heal.yaml", "-o", "x", "--dry-run")],
)
def test_what_trains_nothing_starts_once(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "heal.yaml").write_text(HEAL, encoding="utf-8")
    assert _starts(tmp_path, *arguments) == ["none"]


def test_a_command_that_cannot_be_started_again_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "edgepress"])
    monkeypatch.setattr(sys, "stdout", None)
    for executable in ("", None, "/nowhere/python"):
        monkeypatch.setattr(sys, "executable", executable)
        in_huge_pages()
