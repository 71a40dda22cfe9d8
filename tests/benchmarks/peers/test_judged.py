"""A judged file is taken over by a later run only where everything that it was made of is the same."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from peer_entries import entry_of, run_of

import edgepress
from edgepress.benchmarks.peers.judged import code_digest, digest, read_entry, write_entry


def test_an_entry_comes_back_under_its_key_alone(tmp_path: Path) -> None:
    model, record = tmp_path / "model.gguf", tmp_path / "entry.json"
    model.write_bytes(b"GGUF")
    entry = msgspec.structs.replace(entry_of("edgepress", "gptaq", 0.1, [run_of()], file_bytes=4), path=model)
    key = digest({"step": {"format": "q4_0"}})
    assert read_entry(record, key) is None
    write_entry(record, key, entry)
    assert read_entry(record, key) == entry
    assert read_entry(record, digest({"step": {"format": "q4_1"}})) is None
    model.write_bytes(b"GGUF of another run")
    assert read_entry(record, key) is None
    model.unlink()
    assert read_entry(record, key) is None


def test_an_entry_of_other_fields_is_none(tmp_path: Path) -> None:
    (tmp_path / "entry.json").write_text('{"key": "k", "entry": {"format": "q4_0"}}')
    assert read_entry(tmp_path / "entry.json", "k") is None


def test_another_version_of_the_code_has_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "compress"
    room.mkdir()
    for module in ("errors.py", "recipe.py"):
        (tmp_path / module).write_text("")
    (room / "solver.py").write_text("ALPHA = 0.5\n")
    monkeypatch.setattr(edgepress, "__path__", [str(tmp_path)])
    before = code_digest()
    assert code_digest() == before
    (room / "solver.py").write_text("ALPHA = 0.6\n")
    assert code_digest() != before
