"""A student that classifies: a Hugging Face model with the classification head of its architecture.

The head is transformers' own (for BERT: tanh of a dense layer on [CLS], then a linear one; for a decoder: a linear
layer on the last token), so that the files open as ``AutoModelForSequenceClassification`` and ``edgepress encoder``
exports them as they are. "Features" are what the last linear layer reads, whatever stands before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.files import home_path, sha256_file
from edgepress.artifact.hf_config import find_family
from edgepress.compress.student.hf_tokenizer import tokenizer_files, tokenizer_json_dir
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_parameter


@dataclass(frozen=True)
class ClassifierStudent:
    """A model with a head for the labels.

    model           transformers' sequence classification, float32
    head            name of its last linear layer
    tokenizer_dir   with ``tokenizer.json``
    begun           its name, before the training
    digest          of the files that it was opened from
    """

    model: Any
    head: str
    tokenizer_dir: Path
    begun: str
    digest: str

    @property
    def linear(self) -> nn.Linear:
        """The last linear layer."""
        found = self.model.get_submodule(self.head)
        assert isinstance(found, nn.Linear)
        return found

    def set_head(self, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
        """Put values into the last linear layer; a bias that it lacks is left out."""
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight))
            if self.linear.bias is not None:
                self.linear.bias.copy_(torch.from_numpy(bias))

    def save(self, directory: Path) -> None:
        """Write ``config.json`` and the weights in safetensors."""
        with _quiet():
            self.model.save_pretrained(directory)


def open_classifier(name: str, labels: Sequence[str], seed: int) -> ClassifierStudent:
    """A student with a head of zeros for the labels.

    Args:
        name: a Hugging Face directory of an encoder, or a decoder named like any STUDENT.
        labels: names, in the order of the logits.
        seed: of other weights that the student lacks.

    Raises:
        InputError: it cannot be opened or has no classification head.
    """
    torch.manual_seed(seed)
    directory = home_path(name)
    with _quiet():
        if directory.is_dir() and _is_encoder(directory):
            model, tokenizer_dir = _encoder(directory, labels), _tokenizer_of(directory)
            begun, digest = directory.resolve().name, _digest(directory)
        else:
            student = open_student(name)
            model, tokenizer_dir = _decoder(student, labels), student.tokenizer_dir
            begun, digest = student.name, student.digest()
    head = _last_linear(model, len(labels), name)
    found = ClassifierStudent(model.float().eval(), head, tokenizer_dir, begun, digest)
    found.set_head(np.zeros(found.linear.weight.shape), np.zeros(len(labels)))
    return found


def _is_encoder(directory: Path) -> bool:
    """Whether a directory has a model that is none of the decoders that edgepress compresses."""
    path = directory / "config.json"
    if not path.is_file():
        return False
    try:
        find_family(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        return isinstance(error, InputError)
    return False


def _encoder(directory: Path, labels: Sequence[str]) -> Any:
    if not list(directory.glob("*.safetensors")):
        raise InputError(f"{directory}: no *.safetensors here; other weight files are not read")
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        _name_labels(config, labels)
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            directory, config=config, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers' own validation raises kinds of its own
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{directory}: cannot be opened as a classifier of {len(labels)} labels ({reason})") from error


def _decoder(student: Student, labels: Sequence[str]) -> Any:
    if not student.spec.uniform:
        raise InputError(f"{student.name}: its layers differ in width, which no classifier of transformers can have")
    config = transformers.AutoConfig.for_model(**student.config)
    _name_labels(config, labels)
    if config.pad_token_id is None:
        ends = config.eos_token_id
        config.pad_token_id = ends[0] if isinstance(ends, list) else ends if ends is not None else 0
    try:
        model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise InputError(f"{student.name}: transformers has no classifier of this architecture") from error
    for tensor in student.names:
        if tensor.startswith("model."):
            load_parameter(model, tensor, student.read(tensor))
    return model.requires_grad_(True)


def _name_labels(config: Any, labels: Sequence[str]) -> None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: place for place, label in enumerate(labels)}
    config.problem_type = "single_label_classification"


def _tokenizer_of(directory: Path) -> Path:
    if not (directory / "tokenizer.json").is_file():
        return tokenizer_json_dir(directory, tokenizer_files(directory))
    return directory


def _digest(directory: Path) -> str:
    files = sorted(path for path in directory.iterdir() if path.suffix in (".json", ".safetensors", ".txt"))
    return hashlib.sha256("".join(f"{path.name} {sha256_file(path)}\n" for path in files).encode()).hexdigest()


def _last_linear(model: Any, labels: int, name: str) -> str:
    body = f"{model.base_model_prefix}."
    found = [
        at
        for at, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == labels and not at.startswith(body)
    ]
    if not found:
        raise InputError(f"{name}: {type(model).__name__} ends in no linear layer for {labels} labels")
    last: str = found[-1]
    return last


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """That a head is new goes without saying."""
    progress, before = transformers.logging, transformers.logging.get_verbosity()
    bars = progress.is_progress_bar_enabled()
    progress.set_verbosity_error()
    progress.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        progress.set_verbosity(before)
        if bars:
            progress.enable_progress_bar()
