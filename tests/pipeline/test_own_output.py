"""An output belongs to one command and to one process at a time, and none writes over what it reads."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from edgepress.artifact.files import sole_writer
from edgepress.errors import InputError
from edgepress.pipeline.own_output import check_own_output
from edgepress.pipeline.owner import Command
from edgepress.pipeline.stages import Output

COMMANDS: tuple[Command, ...] = ("run", "export", "encoder", "distill", "gad", "classifier")
NAMES = {command: f"'edgepress {command}'" for command in COMMANDS} | {
    "run": "'edgepress compress' or 'run'",
    "export": "'edgepress export' or 'edge-llm'",
}
CLAIMED = "edgepress.pipeline.stages.sole_writer"
LEFT = ("gguf/model.gguf", "config.json", ".edgepress/training-0123456789abcdef/state")


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


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
        with pytest.raises(InputError, match=f"holds what {NAMES[other]} wrote; choose another directory"):
            take(command, tmp_path / "out")
    assert (tmp_path / "out" / left).is_file()
    assert (tmp_path / "out" / ".edgepress" / "command").read_text() == other


@pytest.mark.parametrize("said", [None, b"", b"\xff\xfe", b"rum"])
@pytest.mark.parametrize(
    ("left", "owner"),
    [
        (["distillation.json", "config.json"], "distill"),
        (["gad.json", "config.json"], "gad"),
        (["classifier.json", "config.json"], "classifier"),
        (["checkpoint/config.json", "gguf/model.gguf", "tensorrt/model.onnx"], "run"),
        ([".edgepress/pruned-1.json", "pruned-1/config.json"], "run"),
        (["gguf/model.gguf"], "export"),
        (["trimmed/config.json"], "run"),
        (["onnx/model.onnx"], "export"),
        (["edge-llm/config.json"], "export"),
        (["tensorrt/model.onnx", "tensorrt/tensorrt.json"], "export"),
        (["tensorrt/model.onnx", "tensorrt/encoder.json"], "encoder"),
    ],
)
def test_without_a_mark_what_lies_there_tells_whose_it_is(
    left: list[str], owner: Command, said: bytes | None, tmp_path: Path
) -> None:
    (tmp_path / ".edgepress").mkdir()
    if said is not None:
        (tmp_path / ".edgepress" / "command").write_bytes(said)
    for name in left:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for command in COMMANDS:
        if command != owner:
            with pytest.raises(InputError, match=f"holds what {NAMES[owner]} wrote"):
                begin(command, tmp_path, None)
    begin(owner, tmp_path, None)
    assert (tmp_path / ".edgepress" / "command").read_text() == owner


def test_a_command_that_comes_between_looking_and_taking_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(directory: Path, lock: Path) -> AbstractContextManager[None]:
        monkeypatch.setattr(CLAIMED, sole_writer)
        begin("gad", tmp_path / "out", "config.json")
        return sole_writer(directory, lock)

    monkeypatch.setattr(CLAIMED, late)
    with pytest.raises(InputError, match="holds what 'edgepress gad' wrote"):
        begin("distill", tmp_path / "out", None)


def test_a_directory_in_which_nothing_was_written_yet_is_anybodys(tmp_path: Path) -> None:
    begin("distill", tmp_path / "out", None)
    check_own_output("run", tmp_path / "out")
    begin("run", tmp_path / "out", "checkpoint")
    with pytest.raises(InputError, match="holds what 'edgepress compress' or 'run' wrote"):
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
    check_own_output("distill", tmp_path / "out", str(tmp_path / "student"), "~nobody-here/x")


def test_an_output_that_is_the_file_which_is_read_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(InputError, match="exists and is not a directory"):
        check_own_output("run", tmp_path / "model.gguf", str(tmp_path / "model.gguf"))


def test_a_foreign_directory_is_refused_and_untouched(output: Output) -> None:
    output.root.mkdir()
    (output.root / "thesis.tex").write_text("x")

    def claim() -> None:
        with output.claim("run"):
            pass

    with pytest.raises(InputError, match="is not empty and was not written by edgepress; choose another directory"):
        claim()
    assert names(output.root) == {"thesis.tex"}


def test_an_empty_directory_and_a_new_one_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "new" / "deep"):
        with Output(root).claim("run"):
            pass
        assert names(root) == {".edgepress"}


def test_a_file_and_an_unwritable_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file: exists and is not a directory"), Output(tmp_path / "file").claim("run"):
        pass
    with pytest.raises(InputError, match="cannot be created"), Output(tmp_path / "file" / "below").claim("run"):
        pass


# Claims a directory, says so, and holds it until its input closes.
_HOLD = """
import sys
from pathlib import Path
from edgepress.pipeline.stages import Output

with Output(Path(sys.argv[1])).claim("run"):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_two_runs_at_once_are_refused_and_one_after_the_other_are_not(output: Output) -> None:
    command = [sys.executable, "-c", _HOLD, str(output.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "claimed\n"
        with pytest.raises(InputError, match="another edgepress run is writing here"), output.claim("run"):
            pass
        holder.kill()
    with output.claim("run"):
        assert not output.is_done("stage", "key")


def test_two_claims_in_one_process_are_refused_too(output: Output) -> None:
    with (
        output.claim("run"),
        pytest.raises(InputError, match="another edgepress run"),
        Output(output.root).claim("run"),
    ):
        pass
    with output.claim("run"):
        pass
