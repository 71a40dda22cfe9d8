"""manifest.json: what it lists is on the disk, and what cannot be read is one line."""

from __future__ import annotations

import hashlib
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import pytest
from checkpoints import write_checkpoint

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.manifest import (
    FORMAT_VERSION,
    Lineage,
    Manifest,
    build_manifest,
    list_files,
    read_manifest,
    write_manifest,
)
from edgepress.artifact.spec import ModelSpec
from edgepress.errors import InputError

LINEAGE = Lineage(
    student="tiny",
    student_source="/somewhere/tiny",
    student_digest="00",
    student_stored_types={"F32": 3},
    student_notes=("a note",),
    recipe={"export": ["gguf"]},
    calibration_digest=None,
    tools={"edgepress": "1"},
)


@pytest.fixture
def root(llama_dir: Path, tmp_path: Path) -> Path:
    write_checkpoint(llama_dir, tmp_path / "checkpoint", lambda _: "f32")
    return tmp_path


@pytest.fixture
def manifest(root: Path) -> Manifest:
    plan = Checkpoint(root / "checkpoint").plan()
    return build_manifest(plan, LINEAGE, ("model.norm.weight",), list_files(root, ["checkpoint"]))


def test_files_are_listed_with_their_bytes_and_hashes(root: Path) -> None:
    (root / "gguf" / "deep").mkdir(parents=True)
    (root / "gguf" / "deep" / "file").write_bytes(b"content")
    (root / "unlisted").write_text("x")
    entries = {entry.path: entry for entry in list_files(root, ["gguf", "checkpoint", "absent"])}
    assert list(entries) == sorted(entries)
    assert entries["gguf/deep/file"].bytes == 7
    assert entries["gguf/deep/file"].sha256 == hashlib.sha256(b"content").hexdigest()
    assert {path.partition("/")[0] for path in entries} == {"gguf", "checkpoint"}


def test_a_part_named_twice_is_listed_once(root: Path) -> None:
    assert list_files(root, ["checkpoint", "checkpoint"]) == list_files(root, ["checkpoint"])


def test_a_manifest_comes_back_as_it_was_written(root: Path, manifest: Manifest) -> None:
    write_manifest(manifest, root)
    found = read_manifest(root)
    assert msgspec.json.encode(found) == msgspec.json.encode(manifest)
    checkpoint = Checkpoint(root / "checkpoint")
    assert msgspec.convert(found.model, ModelSpec) == checkpoint.spec
    assert found.parameters == sum(prod(checkpoint.shape(name)) for name in checkpoint.names)
    assert {tensor["name"]: tensor["format"] for tensor in found.tensors} == dict.fromkeys(checkpoint.names, "f32")
    assert found.fell_back == ("model.norm.weight",)


def test_the_same_manifest_is_the_same_bytes(root: Path, manifest: Manifest) -> None:
    write_manifest(manifest, root / "first")
    write_manifest(manifest, root / "second")
    first, second = ((root / name / "manifest.json").read_bytes() for name in ("first", "second"))
    assert first == second
    assert first.endswith(b"}\n")


def test_a_directory_without_a_manifest_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest\.json here; give the output directory"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a manifest that this version can read"),
        (lambda text: b"[]", "not a manifest that this version can read"),
        (lambda text: b"\xff\xfe", "not a manifest that this version can read"),
        (lambda text: text.replace(b'"files"', b'"fils"'), "files"),
        (
            lambda text: text.replace(b'"format_version": 1', b'"format_version": 99'),
            f"99 is newer than {FORMAT_VERSION}",
        ),
    ],
    ids=["cut short", "another document", "no text", "a field missing", "of a later version"],
)
def test_a_damaged_or_later_manifest_is_one_line(change: Any, message: str, root: Path, manifest: Manifest) -> None:
    write_manifest(manifest, root)
    path = root / "manifest.json"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=message) as raised:
        read_manifest(root)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
