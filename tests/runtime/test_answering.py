"""A local teacher: what it draws, where an answer ends, and that nothing asked before matters."""

from __future__ import annotations

import numpy as np
import pytest
from bigram_session import BigramSession, log_softmax, random_table

from edgepress.errors import InputError
from edgepress.runtime.answering import Answer, LocalAnswerer, Sampling, draw

END = 256


class ByteCodec:
    """Tokens 0 to 255 are bytes, 256 ends an answer."""

    stop_ids = frozenset({END})

    def encode(self, text: str, *, special: bool) -> list[int]:
        return list(text.encode("latin-1"))

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode("latin-1")

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        return self.encode("".join(message["content"] for message in messages), special=False)


def asked(words: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": words}]


def chain(text: str, then: int) -> LocalAnswerer:
    table = np.zeros((257, 257), np.float32)
    for this, following in zip(text.encode(), [*text[1:].encode(), then], strict=True):
        table[this, following] = 9
    return LocalAnswerer(BigramSession(table), ByteCodec())


def test_an_answer_that_ends_is_told_from_one_that_is_cut() -> None:
    assert chain("!abc", END).answer(asked("!"), Sampling(tokens=9), None) == Answer(text="abc", finish="stop")
    assert chain("!abc", END).answer(asked("!"), Sampling(tokens=3), None) == Answer(text="abc", finish="length")
    assert chain("!", END).answer(asked("!"), Sampling(tokens=3), None) == Answer(text="", finish="stop")


def test_an_answer_is_cut_where_the_context_ends() -> None:
    session = BigramSession(random_table(256, 3.0, seed=5), context=6)
    answer = LocalAnswerer(session, ByteCodec()).answer(asked("abc"), Sampling(tokens=99), None)
    assert (len(answer.text), answer.finish) == (4, "length")  # three more fit, and one is predicted from the last


def test_a_question_without_room_for_an_answer_is_refused_before_it_is_asked() -> None:
    answerer = LocalAnswerer(BigramSession(random_table(257, 3.0, seed=5), context=4), ByteCodec())
    answerer.check(asked("abc"))
    with pytest.raises(InputError, match="4 tokens, and the context has 4"):
        answerer.check(asked("abcd"))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_from_the_tempered_distribution(temperature: float) -> None:
    logits = random_table(8, 1.5, seed=2)[:1]
    chance, count = np.random.default_rng(0), 40_000
    seen = np.bincount([draw(logits[0], temperature, chance) for _ in range(count)], minlength=8)
    wanted = count * np.exp(log_softmax(logits / temperature))[0].astype(np.float64)
    assert float(((seen - wanted) ** 2 / wanted).sum()) < 24.3  # chi-square of 7 degrees of freedom: 1 in 1000


def test_without_temperature_the_likeliest_token_is_taken() -> None:
    chance = np.random.default_rng(0)
    assert {draw(np.array([0.0, 0.1, 0.05], np.float32), 0.0, chance) for _ in range(50)} == {1}


def test_an_answer_depends_on_its_seed_and_on_nothing_asked_before() -> None:
    session = BigramSession(random_table(257, 1.0, seed=5), context=64)
    answerer, sampling = LocalAnswerer(session, ByteCodec()), Sampling(tokens=20, temperature=1.0)
    first = answerer.answer(asked("abc"), sampling, 7)
    assert answerer.answer(asked("abc"), sampling, 8) != first
    assert answerer.answer(asked("abc"), sampling, 7) == first
    assert LocalAnswerer(session, ByteCodec()).answer(asked("abc"), sampling, 7) == first
