"""Stages: done once for a key, whole or not at all, by one process at a time."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_disk import run_on_small_disk

import edgepress
from edgepress.errors import InputError
from edgepress.pipeline import stages
from edgepress.pipeline.stages import Output, stage_key


class Maker:
    """Fills a stage's directory and counts how often."""

    def __init__(self, content: str = "content") -> None:
        self.content = content
        self.times = 0

    def __call__(self, directory: Path) -> None:
        self.times += 1
        (directory / "deep").mkdir()
        (directory / "deep" / "file").write_text(self.content)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_finished_stage_is_not_made_again(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    make = Maker()
    for _ in range(2):
        with output.claim("run"):
            directory = output.run("stage", "key", make)
    assert make.times == 1
    assert (directory / "deep" / "file").read_text() == "content"
    assert capsys.readouterr().err == "stage: up to date\n"


def test_another_key_makes_it_again_and_nothing_of_the_old_remains(output: Output) -> None:
    with output.claim("run"):
        output.run("stage", "key", Maker("old"))
        (output.root / "stage" / "stray").write_text("x")
        output.run("stage", "another", Maker("new"))
    assert names(output.root / "stage") == {"deep"}
    assert (output.root / "stage" / "deep" / "file").read_text() == "new"


TAMPERINGS: dict[str, Callable[[Path], object]] = {
    "a file changed": lambda stage: (stage / "deep" / "file").write_text("CONTENT"),
    "a file cut short": lambda stage: (stage / "deep" / "file").write_text("cont"),
    "a file missing": lambda stage: (stage / "deep" / "file").unlink(),
    "a file too many": lambda stage: (stage / "more").write_text("x"),
    "the record gone": lambda stage: (stage.parent / ".edgepress" / "stage.json").unlink(),
    "the record damaged": lambda stage: (stage.parent / ".edgepress" / "stage.json").write_text("{"),
    "another record": lambda stage: (stage.parent / ".edgepress" / "stage.json").write_text('{"key": "key"}'),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_what_is_not_as_it_was_left_is_made_again(tampering: str, output: Output) -> None:
    make = Maker()
    with output.claim("run"):
        output.run("stage", "key", make)
        TAMPERINGS[tampering](output.root / "stage")
        assert not output.is_done("stage", "key")
        output.run("stage", "key", make)
    assert make.times == 2
    assert names(output.root / "stage") == {"deep"}
    assert (output.root / "stage" / "deep" / "file").read_text() == "content"


def test_what_was_derived_from_a_stage_goes_when_the_stage_does(output: Output) -> None:
    with output.claim("run"):
        output.run("first", "key", Maker())
        output.run("second", "key", Maker())
        output.run("other", "key", Maker())
        output.run("first", "key", Maker(), derived=("second", "third"))
        assert output.is_done("second", "key")
        output.run("first", "another", Maker(), derived=("second", "third"))
        assert not output.is_done("second", "key")
    assert names(output.root) == {".edgepress", "first", "other"}


def test_a_failure_leaves_no_stage_and_no_record(output: Output) -> None:
    def fail(directory: Path) -> None:
        (directory / "half").write_text("x")
        raise ZeroDivisionError

    with output.claim("run"):
        with pytest.raises(ZeroDivisionError):
            output.run("stage", "key", fail)
        assert names(output.root) == {".edgepress"}
        assert not output.is_done("stage", "key")
        output.run("stage", "key", Maker())
    assert names(output.root) == {".edgepress", "stage"}


def test_a_full_disk_is_one_line_and_leaves_nothing(output: Output) -> None:
    def fill(directory: Path) -> None:
        (directory / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with output.claim("run"), pytest.raises(InputError, match="out/stage: the disk is full; free some space"):
        output.run("stage", "key", fill)
    assert names(output.root) == {".edgepress"}


_FILL = """
import sys
from pathlib import Path
from edgepress.errors import InputError
from edgepress.pipeline.stages import Output

output = Output(Path(sys.argv[1]) / "out")
with output.claim("run"):
    for size in (1 << 20, 1 << 10):
        try:
            output.run("stage", "key", lambda directory: (directory / "file").write_bytes(bytes(size)))
        except InputError as error:
            print("the disk is full" in str(error), sorted(path.name for path in output.root.iterdir()))
    print((output.root / "stage" / "file").stat().st_size)
"""


def test_on_a_real_full_disk_nothing_stands_under_the_final_name_and_the_next_try_goes_on(tmp_path: Path) -> None:
    done = run_on_small_disk(_FILL, tmp_path, 300)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["True ['.edgepress']", "1024"]


# Dies with half a stage written; what it leaves is what kill -9 leaves.
_DIE = """
import os, signal, sys
from pathlib import Path
from edgepress.pipeline.stages import Output

def half(directory):
    (directory / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)

output = Output(Path(sys.argv[1]))
with output.claim("run"):
    output.run("stage", "key", half)
"""


def test_a_killed_runs_working_directory_is_ignored_and_removed(output: Output) -> None:
    done = subprocess.run([sys.executable, "-c", _DIE, str(output.root)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(output.root) == {".edgepress", ".stage.partial"}
    make = Maker()
    with output.claim("run"):
        assert not output.is_done("stage", "key")
        output.run("stage", "key", make)
    assert make.times == 1
    assert names(output.root) == {".edgepress", "stage"}
    assert names(output.root / "stage") == {"deep"}


def test_a_stage_without_its_record_counts_as_unfinished(output: Output) -> None:
    """The rename came through, the record did not."""
    make = Maker()
    with output.claim("run"):
        (output.root / "stage").mkdir()
        make(output.root / "stage")
        output.run("stage", "key", make)
    assert make.times == 2


def test_a_key_changes_with_every_input_and_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {stage_key(*inputs) for inputs in (("a", "b"), ("ab",), ("a", "b", None), ("b", "a"), ("a", b"b"), ("a", 1))}
    assert len(keys) == 6
    assert stage_key("a", 1) == stage_key("a", 1)
    before = stage_key("a")
    monkeypatch.setattr(stages, "__version__", f"{edgepress.__version__}+1")
    assert stage_key("a") != before
