"""A recipe with a smaller vocabulary: files, tokenizers and what is measured are those of the trimmed student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pressing import RECIPE, made, press
from tiny_models import CORPUS, make_model_dir
from tiny_tokenizers import LLAMA3_PATTERN, byte_level
from tokenizers import Regex, pre_tokenizers

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.gguf_header import read_gguf_header
from edgepress.compress.prune.config import PruneLayers, TrimVocabulary
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.pipeline.prune import plan_before
from edgepress.pipeline.whole import run_whole
from edgepress.recipe import CompressStep, Evaluate, Recipe, parse_recipe
from edgepress.runtime.text import TextCodec

PLAIN = QuantizeStep(solver="nearest", format="f16")
KEPT = 272


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir("llama", tmp_path_factory.mktemp("trim") / "student")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"{CORPUS}{number} times\n" for number in range(4)), encoding="utf-8")
    return path


def recipe(text: Path, *steps: CompressStep, **fields: Any) -> Recipe:
    trim = TrimVocabulary(keep=0.85, multiple_of=8, files=(str(text),))
    return msgspec.structs.replace(RECIPE, compress=(trim, *steps, PLAIN), **fields)


def test_both_files_hold_the_smaller_vocabulary_and_nothing_is_done_twice(
    student: Path, text: Path, tmp_path: Path
) -> None:
    """The parity gates compare llama.cpp's cutting of texts with tokenizer.json, and the logits with torch."""
    out = tmp_path / "out"
    press(student, out, recipe(text, PruneLayers(drop=1)))
    assert Checkpoint(out / "checkpoint").spec.vocab == KEPT
    assert len(read_gguf_header(out / "gguf" / "model.gguf").metadata["tokenizer.ggml.tokens"]) == KEPT
    genai = json.loads((out / "onnx" / "genai_config.json").read_text(encoding="utf-8"))
    assert genai["model"]["vocab_size"] == KEPT
    assert len(TextCodec(out / "onnx").vocabulary) == KEPT
    before = {part: made(out, part) for part in ("trimmed", "pruned-1", "checkpoint")}
    press(student, out, recipe(text, PruneLayers(drop=1)))
    assert {part: made(out, part) for part in before} == before
    press(student, out, msgspec.structs.replace(RECIPE, compress=(PLAIN,)))
    assert not (out / "trimmed").exists()
    assert Checkpoint(out / "checkpoint").spec.vocab > KEPT


def test_what_it_costs_is_in_the_notes(student: Path, text: Path, tmp_path: Path) -> None:
    manifest = press(student, tmp_path / "out", recipe(text))
    rows = open_student(str(student)).spec.vocab
    (note,) = (note for note in manifest.lineage.student_notes if "trim_vocabulary" in note)
    assert f"{rows} → {KEPT} tokens" in note
    assert "bits per byte. All that follows is measured against the student with that vocabulary" in note


def test_the_divergence_is_from_the_student_with_that_vocabulary(student: Path, text: Path, tmp_path: Path) -> None:
    """Half-precision rows change nothing that shows; another vocabulary could not be compared at all."""
    evaluate = Evaluate(files=(str(text),), tokens=64, context=32, tensors=True)
    result = run_whole(
        open_student(str(student)), recipe(text, evaluate=evaluate, bench=None, samples=None), tmp_path / "out"
    )
    rows = result["models"]
    assert set(rows) == {"gguf", "onnx", "baseline"}
    assert all(row["kld_mean"] < 1e-4 for row in rows.values())
    assert "trim_vocabulary" in Path(result["report"]).read_text(encoding="utf-8")


def test_a_budget_below_the_whole_vocabulary_is_met_by_the_trimmed_one(
    student: Path, text: Path, tmp_path: Path
) -> None:
    kinds = ("q8_0", "f16")
    size = {
        keep: sum(
            path.stat().st_size
            for path in [_q8(student, text, keep, tmp_path / f"keep-{keep}") / "gguf" / "model.gguf"]
        )
        for keep in (1.0, 0.85)
    }
    assert size[0.85] < size[1.0]
    step = QuantizeStep(solver="nearest", target_mb=(size[0.85] + 64) / 1e6, choices=kinds)
    trim = TrimVocabulary(keep=0.85, multiple_of=8, files=(str(text),))
    asked = msgspec.structs.replace(RECIPE, compress=(trim, step), export=("gguf",))
    press(student, tmp_path / "out", asked)
    assert (tmp_path / "out" / "gguf" / "model.gguf").stat().st_size <= size[0.85] + 64
    with pytest.raises(InputError, match="target_mb"):
        press(student, tmp_path / "other", msgspec.structs.replace(asked, compress=(step,)))


def _q8(student: Path, text: Path, keep: float, out: Path) -> Path:
    trim = TrimVocabulary(keep=keep, multiple_of=8, files=(str(text),))
    step = QuantizeStep(solver="nearest", format="q8_0")
    press(student, out, msgspec.structs.replace(RECIPE, compress=(trim, step), export=("gguf",)))
    return out


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            "[{step: prune_layers, drop: 1}, {step: trim_vocabulary, keep: 0.5}]",
            r"compress\[1\]: trim_vocabulary comes",
        ),
        ("[{step: trim_vocabulary, keep: 0.5}, {step: trim_vocabulary, keep: 0.5}]", "comes once"),
        ("[{step: trim_vocabulary, keep: 0}]", "keep"),
        (
            "[{step: trim_vocabulary, keep: 0.5}, {step: distill, teacher: original, tokens: 100}]",
            r"compress\[1\]: dist",
        ),
    ],
)
def test_steps_out_of_order_are_refused(steps: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_recipe(f"compress: {steps}", "R")


def test_a_text_that_is_not_there_or_too_short_is_refused(student: Path, text: Path, tmp_path: Path) -> None:
    opened = open_student(str(student))
    with pytest.raises(InputError, match=r"trim_vocabulary: files: .*: no such file"):
        plan_before(opened, recipe(tmp_path / "gone.txt"), ("gguf",))
    text.write_text("a", encoding="utf-8")
    with pytest.raises(InputError, match="too short, or too much alike"):
        press(student, tmp_path / "out", recipe(text))
    assert not (tmp_path / "out" / "trimmed").exists()


def test_too_few_tokens_are_refused(student: Path, text: Path, tmp_path: Path) -> None:
    few = TrimVocabulary(keep=0.1, files=(str(text),))
    with pytest.raises(InputError, match=r"bytes, characters and added tokens alone are 26[0-9]; raise keep"):
        press(student, tmp_path / "out", msgspec.structs.replace(RECIPE, compress=(few, PLAIN)))


def test_the_calibration_text_chooses_where_no_other_is_named(student: Path, tmp_path: Path) -> None:
    trim = TrimVocabulary(keep=0.9, multiple_of=8)
    press(student, tmp_path / "out", msgspec.structs.replace(RECIPE, compress=(trim, PLAIN), export=("gguf",)))
    record = json.loads((tmp_path / "out" / "trimmed" / "trim.json").read_text(encoding="utf-8"))
    assert np.all(np.asarray(record["tokens"]) > 0)
    assert record["tokens"][1] >= record["tokens"][0]


def test_text_that_is_held_out_takes_no_part_in_the_choice(student: Path, text: Path, tmp_path: Path) -> None:
    ids = TextCodec(student).vocabulary
    words = [token for token in sorted(ids, key=lambda token: -ids[token]) if token.isascii() and token.isalpha()]
    # The latest that no other is made of, which go first where none is used.
    mine, others = [word for word in words if len(word) > 2 and sum(word in other for other in ids) == 1][:2]
    # Four lines of sixty characters are a piece, and every eighth is held out.
    lines = [f"{number} {(mine if number // 4 == 7 else others) + ' '}".ljust(4) * 8 for number in range(32)]
    text.write_text("".join(line[:59].ljust(59, ".") + "\n" for line in lines), encoding="utf-8")
    press(student, tmp_path / "out", recipe(text), ("gguf",))
    left = TextCodec(tmp_path / "out" / "trimmed").vocabulary
    assert others in left
    assert mine not in left


def test_a_text_that_repeats_itself_still_counts(student: Path, text: Path, tmp_path: Path) -> None:
    word = next(
        token for token in TextCodec(student).vocabulary if token.isascii() and token.isalpha() and len(token) > 3
    )
    text.write_text(f"{word}\n" * 400, encoding="utf-8")
    press(student, tmp_path / "out", recipe(text), ("gguf",))
    assert word in TextCodec(tmp_path / "out" / "trimmed").vocabulary


def test_what_it_costs_does_not_depend_on_the_order_of_the_files(student: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.txt", "b.txt")]
    files[0].write_text("".join(f"The quick brown fox {number}.\n" for number in range(600)), encoding="utf-8")
    files[1].write_text("".join(f"Pack my box {number}!\n" for number in range(600)), encoding="utf-8")
    found = []
    for order in (files, files[::-1]):
        trim = TrimVocabulary(keep=0.85, multiple_of=8, files=tuple(str(path) for path in order))
        out = tmp_path / order[0].stem
        press(student, out, msgspec.structs.replace(RECIPE, compress=(trim, PLAIN)), ("gguf",))
        found.append(json.loads((out / "trimmed" / "trim.json").read_text(encoding="utf-8"))["bits_per_byte"])
    np.testing.assert_allclose(found[0], found[1], rtol=0.1)


def test_a_changed_chat_template_reaches_the_files(student: Path, text: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "student", tmp_path / "out"
    shutil.copytree(student, mine)
    for marker in ("AAA", "BBB"):
        template = f"{marker}{{% for message in messages %}}{{{{ message['content'] }}}}{{% endfor %}}"
        (mine / "chat_template.jinja").write_text(template, encoding="utf-8")
        press(mine, out, recipe(text), ("gguf",))
        assert marker in read_gguf_header(out / "gguf" / "model.gguf").metadata["tokenizer.chat_template"]


def test_the_way_of_splitting_text_is_that_of_the_whole_tokenizer(text: Path, tmp_path: Path) -> None:
    """A pattern whose structure is in no table is told by what it does, for which few tokens are too few."""
    steps = [
        pre_tokenizers.Split(Regex(LLAMA3_PATTERN + "|(?!)"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer = byte_level(tmp_path / "tokenizer", steps)
    mine = make_model_dir("llama", tmp_path / "whole", vocab_size=500)
    shutil.copyfile(tokenizer / "tokenizer.json", mine / "tokenizer.json")
    names = {}
    for keep in (1.0, 0.6):
        trim = TrimVocabulary(keep=keep, multiple_of=1, files=(str(text),))
        out = tmp_path / f"keep-{keep}"
        press(mine, out, msgspec.structs.replace(RECIPE, compress=(trim, PLAIN)), ("gguf",))
        names[keep] = read_gguf_header(out / "gguf" / "model.gguf").metadata["tokenizer.ggml.pre"]
    assert names[0.6] == names[1.0] == "llama-bpe"
