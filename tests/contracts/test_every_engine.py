"""What every engine must keep: one Protocol, one meaning, and the same answers as the torch reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from exports import export_tiny, model_for
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.locate import ENGINES, Engine, open_session
from edgepress.runtime.session import Session

CONTEXT = 96
TOKENS = [int(token) for token in np.random.default_rng(4).integers(0, 320, 60)]
# llama.cpp keeps float16 keys and values; the others compute in float32. Relative to the largest logit.
ROUNDING = {"llama.cpp": 5e-3, "onnxruntime": 1e-4, "torch": 1e-4}

# gemma3 has a window of 16 tokens, which 60 tokens pass several times; llama3 scales its rotation.
FAMILIES = ("llama3", "qwen2", "gemma3")


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=ENGINES)
def opened(request: pytest.FixtureRequest, exported: Path) -> Iterator[Session]:
    with open_session(model_for(exported, request.param), context=CONTEXT, threads=1) as session:
        yield session


@pytest.fixture
def session(opened: Session) -> Session:
    opened.reset()
    return opened


def assert_same(session: Session, found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= ROUNDING[session.engine] * np.abs(wanted).max()


def divergence(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Mean KL divergence in nats, from the definition."""
    p, q = (
        x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64), axis=1)[:, None] for x in (reference, other)
    )
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def test_a_prefill_returns_the_logits_of_every_position_or_the_last(session: Session) -> None:
    rows = session.prefill(TOKENS)
    assert rows.shape == (len(TOKENS), session.vocab_size)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    session.reset()
    last = session.prefill(TOKENS, logits="last")
    assert last.shape == (1, session.vocab_size)
    assert_same(session, last[0], rows[-1])


def test_logits_are_the_callers_own(session: Session) -> None:
    first = session.prefill(TOKENS[:5])
    kept = first.copy()
    step = session.decode(TOKENS[5])
    step_kept = step.copy()
    session.decode(TOKENS[6])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(step, step_kept)
    step += 1


@pytest.mark.parametrize("cut", [1, 16, 31, 59])
def test_two_prefills_are_one(session: Session, cut: int) -> None:
    whole = session.prefill(TOKENS)
    session.reset()
    parts = np.concatenate([session.prefill(TOKENS[:cut]), session.prefill(TOKENS[cut:])])
    assert_same(session, parts, whole)


def test_decoding_token_by_token_is_a_prefill(session: Session) -> None:
    whole = session.prefill(TOKENS)
    session.reset()
    steps = np.stack([session.decode(token) for token in TOKENS])
    assert steps.shape == whole.shape
    assert_same(session, steps, whole)


def test_a_token_after_a_prefill_sees_all_before_it(session: Session) -> None:
    whole = session.prefill(TOKENS)
    session.reset()
    session.prefill(TOKENS[:-1], logits="last")
    assert_same(session, session.decode(TOKENS[-1]), whole[-1])


def test_a_reset_forgets_everything(session: Session) -> None:
    fresh = session.prefill(TOKENS[:20])
    session.prefill(TOKENS[20:])
    session.reset()
    assert session.position == 0
    np.testing.assert_array_equal(session.prefill(TOKENS[:20]), fresh)


def test_the_position_counts_the_tokens(session: Session) -> None:
    assert session.position == 0
    session.prefill(TOKENS[:7])
    session.decode(3)
    session.prefill([4, 5], logits="last")
    assert session.position == 10


def test_the_context_can_be_filled_and_not_exceeded(session: Session) -> None:
    assert session.context_limit == CONTEXT
    session.prefill([5] * (CONTEXT - 1), logits="last")
    with pytest.raises(InputError, match=rf"2 tokens at position {CONTEXT - 1} exceed the context of {CONTEXT}"):
        session.prefill([5, 6])
    assert np.isfinite(session.decode(6)).all()
    with pytest.raises(InputError, match=rf"1 tokens at position {CONTEXT} exceed the context of {CONTEXT}"):
        session.decode(7)
    assert session.position == CONTEXT


@pytest.mark.parametrize("token", [-1, 320, 2**31])
def test_a_token_outside_the_vocabulary_is_refused_and_changes_nothing(session: Session, token: int) -> None:
    wanted = session.prefill(TOKENS[:8])
    session.reset()
    session.prefill(TOKENS[:4])
    with pytest.raises(InputError, match=rf"token id {token} is outside the vocabulary of {session.vocab_size}"):
        session.prefill([1, token])
    with pytest.raises(InputError, match="outside the vocabulary"):
        session.decode(token)
    assert session.position == 4
    assert_same(session, session.prefill(TOKENS[4:8]), wanted[4:])


def test_no_tokens_are_refused(session: Session) -> None:
    with pytest.raises(InputError, match="no tokens to evaluate"):
        session.prefill([])


def test_tokens_may_come_as_any_sequence_of_numbers(session: Session) -> None:
    wanted = session.prefill(TOKENS[:6])
    for tokens in (tuple(TOKENS[:6]), np.asarray(TOKENS[:6]), np.asarray(TOKENS[:6], np.int32)):
        session.reset()
        np.testing.assert_array_equal(session.prefill(tokens), wanted)  # type: ignore[arg-type]
    session.reset()
    session.prefill(TOKENS[:5])
    assert_same(session, session.decode(np.int64(TOKENS[5])), wanted[5])  # type: ignore[arg-type]


def test_memory_is_told_in_bytes(session: Session) -> None:
    session.prefill(TOKENS)
    memory = session.memory()
    assert memory.weights_bytes > 0
    assert memory.kv_cache_bytes > 0
    assert memory.rss_bytes > memory.kv_cache_bytes


def test_the_engine_and_its_version_are_named(session: Session) -> None:
    assert session.engine in ENGINES
    assert any(character.isdigit() for character in session.engine_version)


def test_the_distributions_are_those_of_torch(session: Session, exported: Path) -> None:
    with open_session(model_for(exported, "torch"), context=CONTEXT, threads=1) as reference:
        wanted = reference.prefill(TOKENS)
    assert abs(divergence(wanted, session.prefill(TOKENS))) < 1e-5


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("context", [0, -1, 257])
def test_a_context_beyond_the_model_is_refused_with_both_numbers(engine: Engine, context: int, llama: Path) -> None:
    with pytest.raises(InputError, match=rf"context.* {context}.* 1 to 256") as raised:
        open_session(model_for(llama, engine), context=context)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_context_the_models_own_is_taken(engine: Engine, llama: Path) -> None:
    with open_session(model_for(llama, engine), threads=1) as session:
        assert session.context_limit == 256


@pytest.mark.parametrize("engine", ENGINES)
def test_closing_twice_does_no_harm(engine: Engine, llama: Path) -> None:
    session = open_session(model_for(llama, engine), context=CONTEXT, threads=1)
    session.prefill([1, 2, 3])
    session.close()
    session.close()
    with open_session(model_for(llama, engine), context=CONTEXT, threads=1) as again:
        again.prefill([1, 2, 3])
        again.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_two_sessions_do_not_disturb_each_other(engine: Engine, llama: Path) -> None:
    model = model_for(llama, engine)
    with open_session(model, context=CONTEXT, threads=1) as one, open_session(model, context=CONTEXT, threads=1) as two:
        wanted = one.prefill(TOKENS)
        one.reset()
        found = []
        for token in TOKENS:
            found.append(one.decode(token))
            two.decode(319 - token)
        assert_same(one, np.stack(found), wanted)
