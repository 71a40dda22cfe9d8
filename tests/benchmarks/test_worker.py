"""The measured process does what a scenario says, in the order it says, with what it times set apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
from bigram_session import BigramSession, random_table

from edgepress.benchmarks.records import Scenario
from edgepress.benchmarks.worker import DepthSamples, draw_tokens, measure
from edgepress.runtime.session import Logits


class Recorder(BigramSession):
    """A bigram model that writes down what it is asked."""

    def __init__(self) -> None:
        super().__init__(random_table(600, 1.0, 0))
        self.calls: list[str] = []
        self.seen: list[int] = []

    def prefill(self, tokens: Sequence[int], *, logits: Literal["all", "last"] = "all") -> Logits:
        self.calls.append(f"prefill {len(tokens)} {logits}")
        self.seen += tokens
        return super().prefill(tokens, logits=logits)

    def decode(self, token: int) -> Logits:
        result = super().decode(token)
        self.calls[-1] = "decode"
        return result

    def reset(self) -> None:
        self.calls.append("reset")
        super().reset()


def _run(scenario: Scenario) -> tuple[Recorder, tuple[DepthSamples, ...], int]:
    session, advanced = Recorder(), []
    samples = measure(session, scenario, lambda: advanced.append(1))
    return session, samples, len(advanced)


def test_a_repetition_is_reset_fill_prefill_and_steps_after_a_warm_up_at_the_greatest_depth() -> None:
    session, _, _ = _run(Scenario(prompt=7, generate=10, depths=(0, 20), repetitions=1))
    prompt, step = "prefill 7 last", "decode"
    warm_up = ["reset", "prefill 20 last", prompt, *[step] * 8]
    shallow = ["reset", prompt, *[step] * 10]
    deep = ["reset", "prefill 20 last", prompt, *[step] * 10]
    assert session.calls == warm_up + shallow + deep


def test_every_repetition_leaves_its_own_samples_and_the_warm_up_none() -> None:
    _, samples, advanced = _run(Scenario(prompt=3, generate=4, depths=(5, 0), repetitions=6))
    assert [entry.depth for entry in samples] == [5, 0]
    for entry in samples:
        assert len(entry.prefill_ns) == 6
        assert [len(steps) for steps in entry.token_ns] == [4] * 6
        assert min(entry.prefill_ns) > 0
    assert advanced == 1 + 6 * 2


def test_tokens_are_seeded_random_and_spare_the_first_ids() -> None:
    one, two = (_run(Scenario(prompt=50, generate=5, repetitions=2))[0].seen for _ in range(2))
    assert one == two
    assert min(one) >= 256
    assert max(one) < 600
    assert len(set(one)) > 20
    other = _run(Scenario(prompt=50, generate=5, repetitions=2, seed=1))[0].seen
    assert other != one


@pytest.mark.parametrize("vocab", [2, 40, 320, 512, 513, 50_000])
def test_token_ids_lie_inside_any_vocabulary(vocab: int) -> None:
    drawn = draw_tokens(vocab, 1000, 0)
    assert 0 < min(drawn) <= max(drawn) < vocab
