"""A classifier is what transformers opens, and its features are what its last linear layer reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from encoders import make_encoder_dir
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

from edgepress.compress.classify.forward import batch_of, encode_texts, features_of, logits_of
from edgepress.compress.classify.student import ClassifierStudent, open_classifier
from edgepress.errors import InputError

pytestmark = pytest.mark.usefixtures("one_core")
LABELS = ("negative", "neutral", "positive")
TEXTS = ["The quick brown fox", "dog", "Pack my box with five dozen liquor jugs!", "", "The lazy"]


@pytest.fixture(scope="module", params=["bert", "roberta", "llama", "qwen3"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ClassifierStudent:
    directory = tmp_path_factory.mktemp(request.param) / "student"
    if request.param in ("bert", "roberta"):
        make_encoder_dir(request.param, directory)
        # As a bare encoder comes: the body, without a head.
        kind = transformers.AutoModel.from_pretrained(directory)
        kind.save_pretrained(directory)
    else:
        make_model_dir(request.param, directory)
    return open_classifier(str(directory), LABELS, 0)


def test_logits_are_the_head_on_the_features(student: ClassifierStudent) -> None:
    random = np.random.default_rng(0)
    tokens = encode_texts(student, TEXTS, 32)
    features = features_of(student, tokens)
    weight, bias = random.normal(size=(3, features.shape[1])), random.normal(size=3)
    student.set_head(weight, bias)
    has_bias = student.linear.bias is not None
    found = logits_of(student, tokens)
    np.testing.assert_allclose(found, features @ weight.T + (bias if has_bias else 0), atol=2e-4)
    assert found.shape == (5, 3)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_features_are_those_that_count_also_where_a_text_ends_in_the_padding_token(student: ClassifierStudent) -> None:
    tokens = [text[:6] for text in encode_texts(student, TEXTS, 32) if len(text) > 6]
    padding = student.model.config.pad_token_id
    tokens = [tokens[0], [*tokens[0][:4], padding, padding], tokens[-1]]
    features, random = features_of(student, tokens), np.random.default_rng(0)
    weight = random.normal(size=(3, features.shape[1]))
    student.set_head(weight, np.zeros(3))
    np.testing.assert_allclose(logits_of(student, tokens), features @ weight.T, atol=2e-4)


def test_the_longest_text_that_is_taken_can_be_read(student: ClassifierStudent) -> None:
    longest = next(length for length in range(600, 0, -1) if _takes(student, length))
    tokens = encode_texts(student, ["The quick brown fox jumps over the lazy dog. " * 60], longest)
    assert len(tokens[0]) == longest
    assert np.isfinite(logits_of(student, tokens)).all()


def _takes(student: ClassifierStudent, length: int) -> bool:
    try:
        encode_texts(student, ["fox"], length)
    except InputError:
        return False
    return True


def test_a_text_is_answered_alike_alone_and_among_longer_ones(student: ClassifierStudent) -> None:
    tokens = encode_texts(student, TEXTS, 32)
    student.set_head(np.random.default_rng(1).normal(size=tuple(student.linear.weight.shape)), np.zeros(3))
    alone = np.concatenate([logits_of(student, [each]) for each in tokens])
    np.testing.assert_allclose(logits_of(student, tokens), alone, atol=2e-4)


def test_saved_it_is_the_stock_classifier_with_named_labels(student: ClassifierStudent, tmp_path: Path) -> None:
    student.set_head(np.random.default_rng(2).normal(size=tuple(student.linear.weight.shape)), np.zeros(3))
    student.model.save_pretrained(tmp_path / "saved")
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert stock.config.id2label == dict(enumerate(LABELS))
    tokens = encode_texts(student, TEXTS, 32)
    with torch.no_grad():
        theirs = stock(**batch_of(student, tokens)).logits
    np.testing.assert_allclose(logits_of(student, tokens), theirs, atol=1e-4)


def test_a_new_head_says_nothing(tmp_path: Path) -> None:
    make_model_dir("llama", tmp_path / "student")
    student = open_classifier(str(tmp_path / "student"), LABELS, 0)
    assert not logits_of(student, encode_texts(student, TEXTS, 16)).any()


def test_the_body_is_the_students(tmp_path: Path) -> None:
    make_model_dir("llama", tmp_path / "student")
    student = open_classifier(str(tmp_path / "student"), LABELS, 0)
    body = transformers.AutoModel.from_pretrained(tmp_path / "student").eval()
    tokens = encode_texts(student, TEXTS[:1], 16)
    with torch.no_grad():
        last = body(torch.tensor(tokens)).last_hidden_state[0, -1]
    np.testing.assert_allclose(features_of(student, tokens)[0], last, atol=1e-4)


def test_texts_are_cut_to_the_length(student: ClassifierStudent) -> None:
    assert max(map(len, encode_texts(student, ["dog " * 100], 12))) == 12
    with pytest.raises(InputError, match="length: 9999 tokens"):
        encode_texts(student, TEXTS, 9999)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda place: (place / "model.safetensors").unlink(), r"no \*\.safetensors here"),
        (lambda place: (place / "model.safetensors").write_bytes(b"x" * 100), "cannot be opened as a classifier"),
        (lambda place: (place / "config.json").unlink(), r"there is no config\.json here"),
    ],
)
def test_what_cannot_be_opened_is_said(spoil: object, message: str, tmp_path: Path) -> None:
    make_encoder_dir("bert", tmp_path / "student")
    assert callable(spoil)
    spoil(tmp_path / "student")
    with pytest.raises(InputError, match=message):
        open_classifier(str(tmp_path / "student"), LABELS, 0)
