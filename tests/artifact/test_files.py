"""Files and directories appear whole or not at all, also on a full disk."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from small_disk import run_on_small_disk

from edgepress.artifact.files import (
    atomic_directory,
    is_disk_full,
    replace_model,
    sha256_file,
    tree_bytes,
    write_atomically,
)
from edgepress.errors import InputError


def test_a_hash_is_that_of_the_whole_file(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes((1 << 21) + 3)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_bytes_of_a_tree_are_those_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(bytes(10))
    (tmp_path / "a" / "b" / "two").write_bytes(bytes(7))
    assert tree_bytes(tmp_path) == 17
    assert tree_bytes(tmp_path / "a" / "one") == 10


def test_a_directory_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "final"
    with atomic_directory(final) as working:
        (working / "file").write_text("x")
        assert not final.exists()
    assert (final / "file").read_text() == "x"
    assert [path.name for path in final.parent.iterdir()] == ["final"]


def test_a_failure_leaves_what_was_there_before_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("old")

    def fail() -> None:
        with atomic_directory(final) as working:
            (working / "new").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in final.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_new_directory_replaces_the_old_one_and_what_a_killed_run_left(tmp_path: Path) -> None:
    final, left = tmp_path / "final", tmp_path / ".final.partial"
    for directory, name in ((final, "old"), (left, "half")):
        directory.mkdir()
        (directory / name).write_text("x")
    with atomic_directory(final) as working:
        (working / "new").write_text("x")
    assert [path.name for path in final.iterdir()] == ["new"]
    assert not left.exists()


FULL = {
    "the system's error": OSError(errno.ENOSPC, "No space left on device"),
    "a quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "safetensors' error": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "numpy's error": OSError("1048576 requested and 38384 written"),
}


@pytest.mark.parametrize("kind", FULL)
def test_a_full_disk_is_one_line_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    final = tmp_path / "final"

    def fill() -> None:
        with atomic_directory(final) as working:
            (working / "half").write_text("x")
            raise FULL[kind]

    with pytest.raises(InputError, match="final: the disk is full; free some space") as raised:
        fill()
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "Permission denied"), SafetensorError("InvalidHeader"), ValueError("2 requested, 1 left")],
    ids=repr,
)
def test_other_errors_are_not_taken_for_a_full_disk(error: Exception, tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_directory(tmp_path / "final"):
            raise error

    assert not is_disk_full(error)
    with pytest.raises(type(error)):
        fail()


# Each way of writing that edgepress uses, on a disk that is too small.
_WRITERS = """
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from edgepress.artifact.files import atomic_directory, write_atomically
from edgepress.errors import InputError

disk = Path(sys.argv[1])
values = np.ones(1 << 18, np.float32)

def tofile(path):
    with path.open("wb") as stream:
        values.tofile(stream)

def atomic(path):
    write_atomically(disk / "small", values.tobytes())

writers = {
    "safetensors": lambda path: save_file({"values": values}, path),
    "tofile": tofile,
    "save": lambda path: np.save(path, values),
    "plain": lambda path: path.write_bytes(values.tobytes()),
    "atomic": atomic,
}
for name, write in writers.items():
    try:
        with atomic_directory(disk / "final") as working:
            write(working / "file")
    except InputError as error:
        print(name, "disk is full" in str(error), [path.name for path in disk.iterdir()])
"""


def test_every_way_of_writing_fails_clean_on_a_real_full_disk(tmp_path: Path) -> None:
    done = run_on_small_disk(_WRITERS, tmp_path, 400)
    assert done.stderr == ""
    names = ("safetensors", "tofile", "save", "plain", "atomic")
    assert done.stdout.splitlines() == [f"{name} True []" for name in names]


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "file", "first")
    write_atomically(tmp_path / "deep" / "file", b"second")
    assert (tmp_path / "deep" / "file").read_bytes() == b"second"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_small_file_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_model_that_is_replaced_leaves_nothing_of_itself(tmp_path: Path) -> None:
    out, made = tmp_path / "out", tmp_path / "made"
    for folder, files in ((out, ("config.json", "template", "weights", "mine")), (made, ("config.json", "weights"))):
        folder.mkdir()
        for name in files:
            (folder / name).write_text(folder.name, encoding="utf-8")
    names = replace_model(made, out, ["config.json", "template", "weights", "../made/weights"])
    assert names == ["weights", "config.json"]
    assert {path.name: path.read_text("utf-8") for path in out.iterdir()} == {
        "config.json": "made",
        "weights": "made",
        "mine": "out",
    }


def test_a_model_that_is_half_replaced_does_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, made = tmp_path / "out", tmp_path / "made"
    for folder in (out, made):
        folder.mkdir()
        (folder / "config.json").write_text(folder.name, encoding="utf-8")
        (folder / "weights").write_text(folder.name, encoding="utf-8")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgepress.artifact.files.shutil.copyfile", stop)
    with pytest.raises(KeyboardInterrupt):
        replace_model(made, out, [])
    assert not (out / "config.json").exists()
