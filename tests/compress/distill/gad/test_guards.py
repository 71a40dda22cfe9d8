"""Every guard fires on a case that is made for it, says why, and is silent otherwise."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgepress.compress.distill.gad.config import Guards
from edgepress.compress.distill.gad.guards import fired
from edgepress.compress.distill.gad.progress import GadCheck

START = GadCheck(
    step=0, win_rate=0.3, win_rate_se=0.02, accuracy=0.5, reward=None, distinct=0.6, self_bleu=0.2, unfinished=0.1,
    cross_entropy=2.0,
)  # fmt: skip
GUARDS = Guards(patience=3, plateau=0.02, win_rate_drop=0.1, diversity_floor=0.7, most_unfinished=0.5)
TEACHERS = 0.8


def checks(*changes: dict[str, Any]) -> list[GadCheck]:
    """That at the start, and better and better ones with some fields changed."""
    found = [START]
    for place, change in enumerate(changes, start=1):
        better = {"step": place, "win_rate": 0.3 + 0.02 * place, "accuracy": 0.9 - 0.05 * place, "reward": -1.0}
        found.append(msgspec.structs.replace(START, **(better | change)))
    return found


def names(*changes: dict[str, Any], **guards: Any) -> list[str]:
    return [ending.guard for ending in fired(checks(*changes), TEACHERS, msgspec.structs.replace(GUARDS, **guards))]


def test_a_training_that_goes_well_goes_on() -> None:
    assert names({}, {}, {}, {}, {}) == []
    assert fired([START], TEACHERS, GUARDS) == ()


def test_a_discriminator_that_no_longer_moves_ends_it() -> None:
    level = [{"accuracy": value} for value in (0.71, 0.70, 0.71, 0.715)]
    assert names(*level) == ["plateau"]
    assert names(*level[1:]) == []  # four checks make three differences
    assert names(*level, plateau=0.005) == []
    assert names(*level, patience=0) == []
    assert names({"accuracy": 0.5}, {"accuracy": 0.5}, {"accuracy": 0.5}) == []  # that at the start does not count
    (ending,) = fired(checks(*level), TEACHERS, GUARDS)
    assert "0.710, 0.700, 0.710, 0.715" in ending.why


def test_a_reward_that_rises_while_the_judge_is_lost_ends_it() -> None:
    good, hacked = {"win_rate": 0.45, "reward": -1.0}, {"win_rate": 0.2, "reward": 0.5}
    assert names(good, hacked) == ["hacking"]
    assert names(good, hacked | {"reward": -1.5}) == []  # worse, but not for the reward
    assert names(good, hacked | {"win_rate": 0.36}) == []  # within the drop
    assert names(good, hacked | {"win_rate_se": 0.2}) == []  # within the noise
    assert names({"win_rate": 0.25, "reward": -1.0}, {"win_rate": 0.1, "reward": 0.0}) == ["hacking"]  # best: the start
    (ending,) = fired(checks(good, hacked), TEACHERS, GUARDS)
    assert ending.why.startswith("the reward rose from -1.000 to 0.500 while the judge's win rate fell from 0.450 to")


@pytest.mark.parametrize(("distinct", "teachers", "fires"), [(0.41, 0.8, True), (0.43, 0.8, False), (0.41, 0.5, False)])
def test_answers_that_repeat_themselves_end_it(distinct: float, teachers: float, fires: bool) -> None:
    """The floor is 0.7 of the start's 0.6, or of the teacher's where that is less."""
    found = fired(checks({"distinct": distinct}), teachers, GUARDS)
    assert [ending.guard for ending in found] == ["diversity"] * fires
    assert all("the answers repeat themselves" in ending.why for ending in found)


def test_answers_that_do_not_end_end_it() -> None:
    assert names({"unfinished": 0.51}) == ["length"]
    assert names({"unfinished": 0.5}) == []
    worse = [msgspec.structs.replace(START, unfinished=0.9), *checks({"unfinished": 0.85})[1:]]
    assert fired(worse, TEACHERS, GUARDS) == ()  # a student that began so may get better


def test_all_that_fire_are_told() -> None:
    assert names({"unfinished": 0.9, "distinct": 0.1}) == ["diversity", "length"]
