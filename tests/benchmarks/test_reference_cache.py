"""The reference is computed once, survives an interruption, and is never read half-written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from bigram_session import BigramSession, random_table
from numpy.typing import NDArray

from edgepress.artifact.files import tree_bytes
from edgepress.benchmarks.kld import score
from edgepress.benchmarks.packed_reference import score_packed
from edgepress.benchmarks.reference_cache import ReferenceLogits
from edgepress.errors import InputError
from edgepress.runtime.session import Logits

VOCAB = 600
TABLE = random_table(VOCAB, 3.0, 0)
WINDOWS: NDArray[np.int64] = np.random.default_rng(1).integers(0, VOCAB, (5, 33))
SCORED = 32


class KilledError(Exception):
    """What a test raises in place of a signal."""


class Opener:
    """Opens bigram sessions and counts; a session dies after ``lives`` windows."""

    def __init__(self, table: NDArray[np.float32] = TABLE, lives: int | None = None) -> None:
        self.table, self.lives = table, lives
        self.sessions: list[BigramSession] = []

    def __call__(self) -> BigramSession:
        lives = self.lives

        class Mortal(BigramSession):
            def prefill(self, *arguments: object, **options: object) -> Logits:
                if lives is not None and self.resets > lives:
                    raise KilledError
                return super().prefill(*arguments, **options)  # type: ignore[arg-type]

        self.sessions.append(Mortal(self.table))
        return self.sessions[-1]

    @property
    def windows(self) -> int:
        return sum(session.resets for session in self.sessions)


def test_what_is_read_back_scores_as_the_logits_do(tmp_path: Path) -> None:
    reference = ReferenceLogits(tmp_path, "student", WINDOWS, Opener())
    reference.fill()
    other = random_table(VOCAB, 3.0, 2)
    for index, window in enumerate(WINDOWS):
        x, y, targets = TABLE[window[:-1]], other[window[:-1]], window[1:]
        exact, cached = score(x, y, targets), score_packed(reference.load(index), y, targets)
        np.testing.assert_allclose(cached.kld, exact.kld, atol=2e-3)
        assert cached.kld.mean() == pytest.approx(exact.kld.mean(), abs=1e-4)
        np.testing.assert_array_equal(cached.agrees, exact.agrees)
        np.testing.assert_allclose(cached.nll_reference, exact.nll_reference, rtol=1e-14)


def test_a_full_cache_opens_no_session_and_a_longer_text_only_its_new_windows(tmp_path: Path) -> None:
    first = Opener()
    ReferenceLogits(tmp_path, "student", WINDOWS[:3], first).fill()
    assert (first.windows, first.sessions[0].closed) == (3, True)
    again, longer = Opener(), Opener()
    ReferenceLogits(tmp_path, "student", WINDOWS[:3], again).fill()
    assert not again.sessions
    ReferenceLogits(tmp_path, "student", WINDOWS, longer).fill()
    assert longer.windows == 2


def test_another_reference_or_other_windows_share_nothing(tmp_path: Path) -> None:
    ReferenceLogits(tmp_path, "student", WINDOWS, Opener()).fill()
    assert ReferenceLogits(tmp_path, "teacher", WINDOWS, Opener()).missing() == [0, 1, 2, 3, 4]
    assert ReferenceLogits(tmp_path, "student", WINDOWS + 0, Opener()).missing() == []
    assert ReferenceLogits(tmp_path, "student", (WINDOWS + 1) % VOCAB, Opener()).missing() == [0, 1, 2, 3, 4]


def test_an_interrupted_run_goes_on_with_the_next_window(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        ReferenceLogits(tmp_path, "student", WINDOWS, Opener(lives=2)).fill()
    opener = Opener()
    reference = ReferenceLogits(tmp_path, "student", WINDOWS, opener)
    assert reference.missing() == [2, 3, 4]
    reference.fill()
    assert opener.windows == 3
    assert reference.missing() == []


@pytest.mark.parametrize("damage", ["codes cut", "positions cut", "codes gone", "half-written"])
def test_a_damaged_window_is_computed_again(tmp_path: Path, damage: str) -> None:
    reference = ReferenceLogits(tmp_path, "student", WINDOWS, Opener())
    reference.fill()
    whole = reference.load(3).expected_log_prob.copy()
    place = reference._places[3]
    if damage == "codes cut":
        os.truncate(place / "codes.u8", SCORED * VOCAB - 7)
    elif damage == "positions cut":
        os.truncate(place / "positions.npz", 1000)
    elif damage == "codes gone":
        (place / "codes.u8").unlink()
    else:  # a process killed while writing leaves its working directory
        place.rename(place.with_name(f".{place.name}.partial"))
    assert reference.missing() == [3]
    reference.fill()
    np.testing.assert_array_equal(reference.load(3).expected_log_prob, whole)
    assert not list(place.parent.glob(".*"))


def test_the_same_window_twice_is_stored_once(tmp_path: Path) -> None:
    opener = Opener()
    reference = ReferenceLogits(tmp_path, "student", WINDOWS[[0, 1, 0]], opener)
    reference.fill()
    assert opener.windows == 2
    np.testing.assert_array_equal(reference.load(0).codes, reference.load(2).codes)


def test_beyond_the_limit_the_windows_used_longest_ago_go_first(tmp_path: Path) -> None:
    old = ReferenceLogits(tmp_path, "old", WINDOWS[:2], Opener())
    used = ReferenceLogits(tmp_path, "used", WINDOWS[:2], Opener())
    for age, reference in ((3000, old), (2000, used)):
        reference.fill()
        for place in reference._places:
            stamp = place.stat().st_mtime - age
            os.utime(place, (stamp, stamp))
    one = tree_bytes(old._places[0])
    new = ReferenceLogits(tmp_path, "new", WINDOWS[:2], Opener(), limit_bytes=4 * one + 100)
    new.fill()
    assert (len(old.missing()), len(used.missing()), len(new.missing())) == (2, 0, 0)


def test_the_run_at_hand_keeps_its_windows_however_small_the_limit(tmp_path: Path) -> None:
    reference = ReferenceLogits(tmp_path, "student", WINDOWS, Opener(), limit_bytes=0)
    reference.fill()
    assert reference.missing() == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(InputError, match="EDGEPRESS_CACHE"):
        ReferenceLogits(blocked, "student", WINDOWS, Opener()).fill()


def test_a_disk_that_is_too_small_is_found_out_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    opener = Opener()
    with pytest.raises(InputError, match="free"):
        ReferenceLogits(tmp_path, "student", WINDOWS, opener).fill()
    assert opener.windows == 0
