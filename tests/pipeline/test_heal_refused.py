"""What a distill step of a recipe cannot train is refused in one line, before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from chat_templates import CHATML, set_template
from commands import edgepress
from heal_scene import DISTILL, HEAD, PRUNE, QUANTIZE, Scene, make_scene  # noqa: F401
from own_cache import own_cache  # noqa: F401
from tiny_models import CORPUS

from edgepress.errors import InputError
from edgepress.recipe import parse_recipe

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((DISTILL % "", QUANTIZE), r"compress\[0\]: distill trains a student towards what it was"),
        ((PRUNE, QUANTIZE, DISTILL % ""), "distill comes after quantize"),
        ((PRUNE, DISTILL % ", teacher: other", QUANTIZE), "none of the choices: original"),
        ((PRUNE, DISTILL % ", teachers: 1", QUANTIZE), "unknown field 'teachers'"),
        ((PRUNE, DISTILL % ", loss: {jsd: 1}", QUANTIZE), "top_k: 0"),
        ((PRUNE, DISTILL % ", loss: {kl: 0}", QUANTIZE), "all weights are 0"),
        ((PRUNE, DISTILL % ", files: [none.txt]", QUANTIZE), "none.txt: no such file"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(
    steps: tuple[str, ...], message: str, scene: Scene, tmp_path: Path
) -> None:
    done = edgepress("compress", scene.root / "student", "-r", scene.recipe(*steps), "-o", tmp_path / "out")
    assert message.replace("\\", "") in done.error()
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_text_is_refused_before_any_work(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(bytes(range(256)))
    step = DISTILL % f", files: ['{tmp_path / 'picture.txt'}']"
    done = edgepress(
        "compress", scene.root / "student", "-r", scene.recipe(PRUNE, step, QUANTIZE), "-o", tmp_path / "o"
    )
    assert "picture.txt" in done.error() and "UTF-8" in done.error()
    assert not (tmp_path / "o").exists()


def test_too_little_text_is_refused_before_any_work(scene: Scene, tmp_path: Path) -> None:
    """A window is 16 tokens, and one is held out."""
    (tmp_path / "short.txt").write_text("The quick fox.", encoding="utf-8")
    for files, message in ((("short",), "two windows of 16 need 32"), (("short", "none"), "none.txt: no such file")):
        names = ", ".join(str(tmp_path / f"{name}.txt") for name in files)
        recipe = scene.recipe(PRUNE, DISTILL % f", files: [{names}]", QUANTIZE)
        done = edgepress("compress", scene.root / "student", "-r", recipe, "-o", tmp_path / "o")
        assert message in done.error()
        assert not (tmp_path / "o").exists()


def test_conversations_in_which_nothing_is_answered_are_refused_before_any_work(scene: Scene, tmp_path: Path) -> None:
    """Tokens enough, and an answer, but in one window alone; with another one there is something to hold out."""
    student = tmp_path / "student"
    shutil.copytree(scene.root / "student", student)
    set_template(student, CHATML)
    said = [("user", "Who?"), ("assistant", "The quick fox."), ("user", "0123456789 " * 80)]
    line = json.dumps({"messages": [{"role": role, "content": words} for role, words in said]}) + "\n"
    step = DISTILL % f", files: [{tmp_path / 'said.jsonl'}]"
    words = ("compress", student, "-r", scene.recipe(PRUNE, step, QUANTIZE), "--dry-run", "-o", tmp_path / "o")
    (tmp_path / "said.jsonl").write_text(line, encoding="utf-8")
    assert "there is nothing to learn" in edgepress(*words).error()
    (tmp_path / "said.jsonl").write_text(line * 2, encoding="utf-8")
    assert edgepress(*words).code == 0


@pytest.mark.parametrize(("words", "code"), [("The quick fox.", 2), ("The quick brown fox jumps over the dog.", 0)])
def test_with_a_vocabulary_to_trim_a_text_is_too_short_by_its_bytes(
    words: str, code: int, scene: Scene, tmp_path: Path
) -> None:
    """32 tokens are wanted: neither text has them now, the longer one may behind the trimming."""
    (tmp_path / "corpus.txt").write_text(CORPUS * 40, encoding="utf-8")
    (tmp_path / "short.txt").write_text(words, encoding="utf-8")
    trim = f"  - {{step: trim_vocabulary, keep: 0.9, files: [{tmp_path / 'corpus.txt'}]}}\n"
    step = DISTILL % f", files: [{tmp_path / 'short.txt'}]"
    for steps, wanted in (((trim, PRUNE, step, QUANTIZE), code), ((PRUNE, step, QUANTIZE), 2)):
        recipe = scene.recipe(*steps)
        done = edgepress("compress", scene.root / "student", "-r", recipe, "-o", tmp_path / "o", "--dry-run")
        assert done.code == wanted, done.err


def test_a_step_needs_tokens() -> None:
    with pytest.raises(InputError, match="tokens"):
        parse_recipe(HEAD + PRUNE + "  - {step: distill}\n" + QUANTIZE, "r")
