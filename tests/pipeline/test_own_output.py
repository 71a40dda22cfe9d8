"""No command writes over what it reads, or over what another command wrote or began."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepress.errors import InputError
from edgepress.pipeline.own_output import check_own_output
from edgepress.pipeline.stages import Command, Output

COMMANDS: tuple[Command, ...] = ("run", "export", "encoder", "distill", "gad", "classifier")
LEFT = ("gguf/model.gguf", "config.json", ".edgepress/training-0123456789abcdef/state")


def begin(command: Command, out: Path, left: str | None) -> None:
    """What a command leaves that was killed behind its first file, or before it."""
    with Output(out).claim(command):
        if left is not None:
            (out / left).parent.mkdir(parents=True, exist_ok=True)
            (out / left).touch()


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("other", COMMANDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_another_command_wrote_is_refused_and_ones_own_is_not(
    tmp_path: Path, command: Command, other: Command, left: str
) -> None:
    begin(other, tmp_path / "out", left)
    if command == other:
        check_own_output(command, tmp_path / "out")
        begin(command, tmp_path / "out", left)
        return
    for take in (check_own_output, lambda command, out: begin(command, out, None)):
        with pytest.raises(InputError, match=f"holds what 'edgepress {other}' wrote; choose another directory"):
            take(command, tmp_path / "out")
    assert (tmp_path / "out" / left).is_file()


def test_a_directory_in_which_nothing_was_written_yet_is_anybodys(tmp_path: Path) -> None:
    begin("distill", tmp_path / "out", None)
    check_own_output("run", tmp_path / "out")
    begin("run", tmp_path / "out", "checkpoint")
    with pytest.raises(InputError, match="holds what 'edgepress run' wrote"):
        begin("distill", tmp_path / "out", None)


@pytest.mark.parametrize("below", [".", "checkpoint", "a/model.gguf"])
def test_a_model_in_the_output_is_refused_however_the_path_is_spelt(
    tmp_path: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (out / below).mkdir(parents=True, exist_ok=True)
    (tmp_path / "link").symlink_to(out)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spelt in (out / below, tmp_path / "link" / below, out / ".." / "out" / below, f"~/out/{below}"):
        with pytest.raises(InputError, match="which is read; choose another directory"):
            check_own_output("distill", out, None, str(spelt))


def test_models_elsewhere_and_names_that_are_no_paths_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "config.json").touch()
    check_own_output("distill", tmp_path / "student" / "out", str(tmp_path / "student"), "smollm2-135m-instruct")
    check_own_output("distill", tmp_path / "out", str(tmp_path / "student"))


def test_an_output_that_is_the_file_which_is_read_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(InputError, match="exists and is not a directory"):
        check_own_output("run", tmp_path / "model.gguf", str(tmp_path / "model.gguf"))
