"""The llama.cpp session on tiny models, against itself, its log and damaged files."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint
from tiny_models import CONTEXT, make_model_dir

from edgepress.errors import InputError
from edgepress.export.gguf import export_gguf

pytest.importorskip("llama_cpp")

from edgepress.runtime import llamacpp
from edgepress.runtime.llamacpp import LlamaCppSession
from edgepress.runtime.llamacpp_library import library

# llama.cpp attends in float16, in another order for a batch than for one token.
ROUNDING = 5e-3

TOKENS = [5, 77, 300, 12, 64, 8, 8, 91, 120, 33, 250, 7, 19, 44, 101, 202, 303, 31, 13, 6]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven layers, six of them behind a window of 16."""
    return _gguf("gemma3", tmp_path_factory.mktemp("gemma"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _gguf("llama", tmp_path_factory.mktemp("llama"), head_dim=32)


@pytest.fixture
def session(llama: Path) -> Iterator[LlamaCppSession]:
    with LlamaCppSession(llama, threads=1) as opened:
        yield opened


def _gguf(family: str, working: Path, **options: int) -> Path:
    model = make_model_dir(family, working / "model", **options)
    checkpoint = write_checkpoint(model, working / "checkpoint", lambda _: "f32")
    export_gguf(checkpoint, working / "model.gguf")
    return working / "model.gguf"


def test_decoding_step_by_step_gives_the_logits_of_the_prefill(session: LlamaCppSession) -> None:
    whole = session.prefill(TOKENS)
    assert whole.shape == (len(TOKENS), session.vocab_size) and whole.dtype == np.float32
    session.reset()
    steps = np.stack([session.decode(token) for token in TOKENS])
    assert np.abs(whole - steps).max() < ROUNDING * np.abs(whole).max()


def test_steps_behind_a_sliding_window_give_the_logits_of_the_prefill(gemma: Path) -> None:
    tokens = TOKENS * 5
    with LlamaCppSession(gemma, threads=1) as session:
        whole = session.prefill(tokens)
        session.reset()
        steps = np.stack([session.decode(token) for token in tokens])
    assert np.abs(whole - steps).max() < ROUNDING * np.abs(whole).max()


def test_only_the_last_position_is_that_row_of_all(session: LlamaCppSession) -> None:
    whole = session.prefill(TOKENS)
    session.reset()
    last = session.prefill(TOKENS, logits="last")
    assert last.shape == (1, session.vocab_size)
    assert np.allclose(last[0], whole[-1], atol=1e-4)


def test_short_chunks_change_nothing(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LlamaCppSession(llama, threads=1) as session:
        whole = session.prefill(TOKENS)
    monkeypatch.setattr(llamacpp, "LOGIT_BYTES", 4 * whole.shape[1] * 3)  # three rows at a time
    with LlamaCppSession(llama, threads=1) as session:
        chunked = session.prefill(TOKENS)
    assert np.abs(whole - chunked).max() < ROUNDING * np.abs(whole).max()


def test_position_counts_on_until_the_reset(session: LlamaCppSession) -> None:
    session.prefill(TOKENS[:5], logits="last")
    session.decode(9)
    assert session.position == 6
    session.reset()
    assert session.position == 0
    first = session.decode(5)
    session.reset()
    assert np.array_equal(session.decode(5), first)


def test_the_context_is_the_models_own_or_the_one_asked_for(llama: Path) -> None:
    with LlamaCppSession(llama, threads=1) as session:
        assert session.context_limit == CONTEXT
    with LlamaCppSession(llama, context=10, threads=1) as session:
        assert session.context_limit == 10
        with pytest.raises(InputError, match="exceed the context of 10"):
            session.prefill(TOKENS)
        session.prefill(TOKENS[:10])


@pytest.mark.parametrize("context", [0, -1, CONTEXT + 1])
def test_a_context_outside_the_models_limit_is_refused(context: int, llama: Path) -> None:
    with pytest.raises(InputError, match=f"context {context} is outside the model's 1 to {CONTEXT}"):
        LlamaCppSession(llama, context=context)


def test_tokens_outside_the_vocabulary_are_refused(session: LlamaCppSession) -> None:
    with pytest.raises(InputError, match="outside the vocabulary"):
        session.decode(session.vocab_size)


@pytest.mark.parametrize("kinds", [("f16", "f16"), ("f32", "f32"), ("q8_0", "q4_0")])
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_cache_bytes_are_those_that_llama_cpp_reports(
    family: str, kinds: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(family)
    with RecordedLog() as lines, LlamaCppSession(path, type_k=kinds[0], type_v=kinds[1], threads=1) as session:
        memory = session.memory()
    reported = [float(size) for line in lines for size in re.findall(r"kv_cache: size = +([\d.]+) MiB", line)]
    assert reported
    # Each cache (there are two behind windows) is reported to a hundredth of a MiB.
    assert memory.kv_cache_bytes / 2**20 == pytest.approx(sum(reported), abs=0.006 * len(reported))
    assert 0 < memory.weights_bytes < path.stat().st_size
    assert memory.rss_bytes > memory.weights_bytes


def test_quantized_caches_compute_nearly_the_same(llama: Path) -> None:
    with LlamaCppSession(llama, threads=1) as session:
        exact = session.prefill(TOKENS)
    with LlamaCppSession(llama, type_k="q8_0", type_v="q8_0", threads=1) as session:
        coarse = session.prefill(TOKENS)
    assert 0 < np.abs(exact - coarse).max() < 0.1 * np.abs(exact).max()


def test_an_unknown_cache_type_lists_the_known_ones(llama: Path) -> None:
    with pytest.raises(InputError, match="known types: f32, f16, q4_0, q8_0"):
        LlamaCppSession(llama, type_k="q3_0")


def test_a_cache_beyond_the_machines_memory_is_refused(tmp_path: Path) -> None:
    path = _gguf("llama", tmp_path, max_position_embeddings=2**30)
    with pytest.raises(InputError, match=r"needs \d+ MiB of key-value cache, \d+ MiB are free"):
        LlamaCppSession(path)


def test_the_vocabulary_speaks_for_a_bare_file(session: LlamaCppSession) -> None:
    vocabulary = session.vocabulary
    text = "<|im_start|>The naïve café, 你好"
    tokens = vocabulary.tokenize(text, special=True)
    assert b"".join(vocabulary.token_bytes(token) for token in tokens) == text.encode()
    assert len(vocabulary.tokenize("<|im_start|>", special=True)) == 1
    assert len(vocabulary.tokenize("<|im_start|>", special=False)) > 1
    assert vocabulary.tokenize("", special=True) == []
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.add_bos) == (0, 1, False)
    template = vocabulary.chat_template()
    assert template is not None and template.startswith("{% for message in messages %}")


def test_versions_of_package_and_engine_are_named(session: LlamaCppSession) -> None:
    assert session.engine == "llama.cpp"
    assert re.match(r"llama-cpp-python \d", session.engine_version)


def test_a_closed_session_can_be_closed_again(llama: Path) -> None:
    session = LlamaCppSession(llama, threads=1)
    session.close()
    session.close()


def test_what_llama_cpp_refuses_is_told_in_its_words(llama: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    data = llama.read_bytes()
    broken.write_bytes(data.replace(b"blk.1.attn_v.weight", b"blk.1.attn_x.weight"))
    with pytest.raises(InputError, match=r"llama\.cpp cannot load it \(.*blk\.1\.attn_v\.weight") as caught:
        LlamaCppSession(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", 0),
        ("llama.block_count", 100_000),
        ("llama.embedding_length", 0),
        ("llama.attention.head_count", 3),
        ("llama.rope.dimension_count", 31),
        ("llama.attention.key_length", 2**31),
        ("llama.context_length", 0),
        ("llama.attention.layer_norm_rms_epsilon", 0x7FFFFFFF),  # not a number
    ],
)
def test_absurd_numbers_are_refused_before_the_engine_sees_them(
    key: str, value: int, llama: Path, tmp_path: Path
) -> None:
    data = bytearray(llama.read_bytes())
    named = struct.pack("<Q", len(key)) + key.encode()
    at = data.index(named) + len(named) + 4
    data[at : at + 4] = struct.pack("<I", value)
    (tmp_path / "absurd.gguf").write_bytes(data)
    with pytest.raises(InputError) as caught:
        LlamaCppSession(tmp_path / "absurd.gguf")
    assert "\n" not in str(caught.value)


def test_a_token_that_occurs_twice_is_refused(llama: Path, tmp_path: Path) -> None:
    def entry(token: bytes) -> bytes:
        return struct.pack("<Q", len(token)) + token

    data = llama.read_bytes()
    assert data.count(entry(b"A")) == data.count(entry(b"B")) == 1
    (tmp_path / "twice.gguf").write_bytes(data.replace(entry(b"A"), entry(b"B")))
    with pytest.raises(InputError, match="1 tokens of the vocabulary occur twice"):
        LlamaCppSession(tmp_path / "twice.gguf")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(share: float, llama: Path, tmp_path: Path) -> None:
    data = llama.read_bytes()
    (tmp_path / "short.gguf").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"truncated|not a GGUF file"):
        LlamaCppSession(tmp_path / "short.gguf")


class RecordedLog:
    """Everything llama.cpp says while the block runs."""

    def __enter__(self) -> list[str]:
        engine = library()
        self.lines: list[str] = []
        self._callback = engine.api.llama_log_callback(lambda level, text, _: self.lines.append(text.decode()))
        engine.api.llama_log_set(self._callback, None)
        return self.lines

    def __exit__(self, *_: object) -> None:
        engine = library()
        engine.api.llama_log_set(engine._callback, None)
