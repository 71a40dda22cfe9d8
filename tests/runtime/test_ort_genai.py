"""The onnxruntime-genai session keeps the Session's promises, and says in one line what is wrong with a directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint
from tiny_models import make_model_dir

from edgepress.artifact.families import is_matrix
from edgepress.errors import InputError
from edgepress.export.onnx.writer import export_onnx
from edgepress.runtime import ort_genai
from edgepress.runtime.ort_genai import OrtGenaiSession

TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 320, 50)]
CONTEXT = 64


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("session")
    model = make_model_dir("llama", out / "model")
    source = write_checkpoint(model, out / "checkpoint", lambda name: "q8_0" if is_matrix(name) else "f32")
    (out / "onnx").mkdir()
    export_onnx(source, out / "onnx", accuracy_level=0)
    return out / "onnx"


@pytest.fixture
def session(directory: Path) -> Iterator[OrtGenaiSession]:
    with OrtGenaiSession(directory, context=CONTEXT, threads=1) as opened:
        yield opened


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(directory, tmp_path / "onnx")


def test_the_last_row_of_all_logits_is_what_last_returns(session: OrtGenaiSession) -> None:
    rows = session.prefill(TOKENS)
    assert rows.shape == (len(TOKENS), session.vocab_size)
    assert rows.dtype == np.float32
    session.reset()
    last = session.prefill(TOKENS, logits="last")
    assert last.shape == (1, session.vocab_size)
    np.testing.assert_array_equal(last[0], rows[-1])


def test_a_reset_session_repeats_itself(session: OrtGenaiSession) -> None:
    first = session.prefill(TOKENS[:20])
    session.decode(7)
    assert session.position == 21
    session.reset()
    assert session.position == 0
    np.testing.assert_array_equal(session.prefill(TOKENS[:20]), first)


def test_a_prompt_cut_into_calls_gives_the_same_logits(
    session: OrtGenaiSession, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = session.prefill(TOKENS)
    monkeypatch.setattr(ort_genai, "_LOGITS_BYTES", 4 * 8 * session.vocab_size)  # eight tokens a call
    with OrtGenaiSession(directory, context=CONTEXT, threads=1) as cut:
        np.testing.assert_allclose(cut.prefill(TOKENS), whole, atol=1e-4)
        cut.reset()
        np.testing.assert_allclose(cut.prefill(TOKENS, logits="last")[0], whole[-1], atol=1e-4)


@pytest.mark.parametrize("special", [1, 2], ids=["end of text", "padding"])
def test_special_tokens_are_tokens_like_any_other(session: OrtGenaiSession, special: int) -> None:
    prompt = [10, special, 11, special, special]
    at_once = session.prefill(prompt)
    session.reset()
    steps = np.stack([session.decode(token) for token in prompt])
    np.testing.assert_allclose(steps, at_once, atol=1e-4)
    session.reset()
    assert np.isfinite(session.prefill([special, special], logits="last")).all()


def test_the_context_can_be_filled_but_not_exceeded(session: OrtGenaiSession) -> None:
    assert session.context_limit == CONTEXT
    session.prefill([5] * (CONTEXT - 1))
    session.decode(6)
    with pytest.raises(InputError, match=f"1 tokens at position {CONTEXT} exceed the context of {CONTEXT}"):
        session.decode(7)


def test_a_token_outside_the_vocabulary_is_refused(session: OrtGenaiSession) -> None:
    with pytest.raises(InputError, match="outside the vocabulary"):
        session.prefill([session.vocab_size])


def test_memory_counts_the_files_and_the_cache_of_the_asked_context(session: OrtGenaiSession, directory: Path) -> None:
    memory = session.memory()
    files = sum((directory / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert memory.weights_bytes == files
    assert memory.kv_cache_bytes == 2 * 2 * 2 * 16 * CONTEXT * 4  # sides, layers, heads, head_dim, tokens, float32
    assert memory.rss_bytes > memory.kv_cache_bytes


def test_engine_and_versions_are_named(session: OrtGenaiSession) -> None:
    assert session.engine == "onnxruntime"
    assert session.engine_version.startswith("onnxruntime ")
    assert ", onnxruntime-genai " in session.engine_version


@pytest.mark.parametrize("context", [0, -1, 257])
def test_a_context_beyond_the_model_is_refused(directory: Path, context: int) -> None:
    with pytest.raises(InputError, match=rf"context of {context} tokens.* 1 to 256"):
        OrtGenaiSession(directory, context=context)


def _config(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(directory: Path) -> None:
        path = directory / "genai_config.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        edit(document["model"])
        path.write_text(json.dumps(document), encoding="utf-8")

    return damage


def _options(**options: Any) -> Callable[[Path], object]:
    return _config(lambda model: model["decoder"]["session_options"].update(options))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (lambda d: (d / "genai_config.json").unlink(), "genai_config.json: missing or damaged"),
    "broken configuration": (lambda d: (d / "genai_config.json").write_text("{"), "genai_config.json: missing or dam"),
    "configuration without sizes": (_config(lambda model: model.pop("vocab_size")), "vocab_size"),
    "absurd sizes": (_config(lambda model: model["decoder"].update(num_hidden_layers=-4)), "positive integer"),
    "no graph": (lambda d: (d / "model.onnx").unlink(), "cannot open this model"),
    "broken graph": (lambda d: (d / "model.onnx").write_bytes(b"no graph"), "cannot open this model"),
    "no weights": (lambda d: (d / "model.onnx.data").unlink(), "cannot open this model"),
    "weights cut short": (
        lambda d: (d / "model.onnx.data").write_bytes((d / "model.onnx.data").read_bytes()[:5000]),
        "cannot open this model",
    ),
    "another provider": (_options(provider_options=[{"cuda": {}}]), "asks for the provider cuda"),
    "a library": (_options(custom_ops_library="evil.so"), "library 'evil.so', which is not allowed"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_a_damaged_directory_is_one_line(copy: Path, damage: str) -> None:
    break_it, message = DAMAGES[damage]
    break_it(copy)
    with pytest.raises(InputError, match=message) as raised:
        OrtGenaiSession(copy, context=CONTEXT, threads=1)
    assert "\n" not in str(raised.value)
    assert str(copy) in str(raised.value)


def test_a_cache_larger_than_the_machine_is_refused_before_it_is_allocated(copy: Path) -> None:
    _config(lambda model: model.update(context_length=1 << 30))(copy)
    with pytest.raises(InputError, match=r"MiB of key-value cache, .* MiB are free; open it with a smaller context"):
        OrtGenaiSession(copy)
