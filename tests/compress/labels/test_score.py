"""Scores of labels are log-probabilities of whole sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bigram_session import BigramSession, log_softmax, random_table
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir
from transformers import AutoModelForCausalLM

from edgepress.compress.labels.score import SessionScorer, label_scores, sequence_log_probability
from edgepress.compress.labels.task import Prompts, Task, write_prompts
from edgepress.compress.labels.torch_scorer import TorchScorer
from edgepress.compress.student.open import open_student
from edgepress.runtime.text import TextCodec
from edgepress.runtime.torch_reference import TorchSession

pytestmark = pytest.mark.usefixtures("one_core")
TEXTS = ("The lazy dog", "Pack my box with jugs", "fox", "")
TASK = Task(
    labels={"good": (" good", " over the dog"), "bad": (" bad", " 12345 reasons, five"), "odd": ("!",)},
    template="Say: {text}\nIt is",
)


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(request.param, tmp_path_factory.mktemp(request.param) / "teacher")


def brute_force(directory: Path, prompt: list[int], verbalizer: list[int]) -> float:
    """The whole sequence at once, in float64."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    with torch.no_grad():
        odds = torch.log_softmax(model(torch.tensor([prompt + verbalizer])).logits[0], -1)
    return sum(float(odds[len(prompt) + at - 1, token]) for at, token in enumerate(verbalizer))


@pytest.mark.parametrize("engine", ["cached", "session"])
def test_a_score_is_the_log_probability_of_the_whole_sequence(teacher: Path, engine: str) -> None:
    student = open_student(str(teacher))
    asked = write_prompts(TASK, TextCodec(teacher), TEXTS)
    assert asked.shared >= 2
    assert {len(tokens) == 1 for tokens in asked.verbalizers} == {True, False}
    scorer = (
        TorchScorer(student, asked) if engine == "cached" else SessionScorer(TorchSession(student), asked.verbalizers)
    )
    found = np.array([scorer.score(prompt) for prompt in asked.prompts])
    wanted = [
        [brute_force(teacher, list(prompt), list(tokens)) for tokens in asked.verbalizers] for prompt in asked.prompts
    ]
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)
    assert np.std(found[:, 0]) > 1e-3  # the text matters, or nothing was tested


def test_a_score_does_not_depend_on_the_texts_before_it(teacher: Path) -> None:
    asked = write_prompts(TASK, TextCodec(teacher), TEXTS)
    student = open_student(str(teacher))
    one, other = TorchScorer(student, asked), TorchScorer(student, asked)
    forth = [one.score(prompt) for prompt in asked.prompts]
    back = [other.score(prompt) for prompt in asked.prompts[::-1]][::-1]
    np.testing.assert_array_equal(forth, back)


def test_a_bigram_session_gives_its_table_back() -> None:
    table = random_table(30, 2.0, 0)
    odds = log_softmax(table)
    scorer = SessionScorer(BigramSession(table), ((5,), (6, 7, 8)))
    found = scorer.score([1, 2, 3])
    np.testing.assert_allclose(found, [odds[3, 5], odds[3, 6] + odds[6, 7] + odds[7, 8]], rtol=1e-6)


def test_large_logits_overflow_nothing() -> None:
    logits = np.array([[1e4, 0.0], [0.0, 1e4]], np.float32)
    assert sequence_log_probability(logits, [0, 0]) == pytest.approx(-1e4)


def test_verbalizers_of_a_label_are_added_as_probabilities_or_their_logarithms_averaged() -> None:
    scores = np.log([[0.1, 0.3, 0.2], [0.5, 0.25, 0.125]])
    np.testing.assert_allclose(np.exp(label_scores(scores, (0, 0, 1), "sum")), [[0.4, 0.2], [0.75, 0.125]])
    means = [[(0.1 * 0.3) ** 0.5, 0.2], [(0.5 * 0.25) ** 0.5, 0.125]]
    np.testing.assert_allclose(np.exp(label_scores(scores, (0, 0, 1), "mean")), means)


def test_prompts_with_one_text_share_all_but_a_token(teacher: Path) -> None:
    asked: Prompts = write_prompts(TASK, TextCodec(teacher), ("dog", "dog"))
    assert asked.shared == len(asked.prompts[0]) - 1


def test_a_chat_is_asked_in_the_template(teacher: Path) -> None:
    codec = TextCodec(teacher)
    chat = Task(labels={"a": ("yes",), "b": ("no",)}, template="Is {text} good?", chat=True)
    prompt = write_prompts(chat, codec, ("dog", "fox")).prompts[0]
    wanted = "<|im_start|>user\nIs dog good?<|im_end|>\n<|im_start|>assistant\n"
    assert list(prompt) == codec.encode(wanted, special=False)
