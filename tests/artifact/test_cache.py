"""The cache: where it lies, and that an entry appears once and whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgepress.artifact.cache import cache_dir, cached
from edgepress.errors import InputError

# Makes an entry slowly and counts how often it was made; "die" kills itself halfway.
_MAKER = """
import os, signal, sys, time
from pathlib import Path
from edgepress.artifact.cache import cached

def make(working):
    (working / "half").write_text("x")
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    (working / "whole").write_text("x")
    with Path(os.environ["COUNT"]).open("a") as count:
        count.write("made\\n")

print(cached("kind", "key", make))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    return tmp_path / "cache"


def _start(how: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _MAKER, how], stdout=subprocess.PIPE, text=True)


def test_the_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", "/a/b")
    assert cache_dir() == Path("/a/b")
    monkeypatch.delenv("EDGEPRESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/edgepress")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert cache_dir() == Path("/h/.cache/edgepress")


def test_an_entry_is_made_once(cache: Path) -> None:
    made = []

    def make(working: Path) -> None:
        made.append(working)
        (working / "file").write_text("content")

    first = cached("kind", "key", make)
    assert first == cache / "kind" / "key" == cached("kind", "key", make)
    assert (first / "file").read_text() == "content"
    assert len(made) == 1


def test_a_failure_leaves_nothing_and_passes_through(cache: Path) -> None:
    def fail(working: Path) -> None:
        (working / "file").write_text("half")
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        cached("kind", "key", fail)
    assert [entry.name for entry in (cache / "kind").iterdir()] == [".key.lock"]


def test_two_processes_make_an_entry_once(cache: Path) -> None:
    processes = [_start("live") for _ in range(2)]
    assert {process.communicate(timeout=60)[0].strip() for process in processes} == {str(cache / "kind" / "key")}
    assert Path(os.environ["COUNT"]).read_text() == "made\n"
    assert sorted(entry.name for entry in (cache / "kind" / "key").iterdir()) == ["half", "whole"]


def test_a_killed_maker_leaves_nothing_that_counts(cache: Path) -> None:
    killed = _start("die")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not (cache / "kind" / "key").exists()
    second = _start("live")
    second.communicate(timeout=60)
    assert (cache / "kind" / "key" / "whole").is_file()
    assert not list((cache / "kind").glob("*.partial"))


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be written .*; set EDGEPRESS_CACHE to another directory"):
        cached("kind", "key", lambda working: time.sleep(0))


def test_without_a_home_it_is_said_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("EDGEPRESS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="set EDGEPRESS_CACHE"):
        cache_dir()
    monkeypatch.setenv("EDGEPRESS_CACHE", "~nobody-here/x")
    assert cache_dir().name == "x"
