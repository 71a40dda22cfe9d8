"""From what a user calls a teacher to something that answers: a model in its own engine, or an endpoint.

A model that an engine opens as it is, is run by that engine; a Hugging Face directory, or a hub id, by torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgepress.artifact.files import home_path, sha256_file
from edgepress.errors import InputError
from edgepress.runtime.answering import Answerer, LocalAnswerer
from edgepress.runtime.chat_endpoint import ChatEndpoint, endpoint_address
from edgepress.runtime.dialogue import open_dialogue
from edgepress.runtime.locate import ModelFile, choose_model, find_models
from edgepress.runtime.text import TextCodec


class TeacherChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which teacher, and how it runs.

    name       a path, a built-in name, a hub id, or the address of an endpoint
    model      one of the endpoint's models; key_env names the variable with its key
    at_once    requests to the endpoint that may be under way; timeout_s is of each
    engine     of a local one, with context and threads as its session takes them
    """

    name: str
    model: str | None = None
    key_env: str | None = None
    at_once: int = 4
    timeout_s: float = 300.0
    engine: str | None = None
    context: int | None = None
    threads: int | None = None

    @property
    def is_endpoint(self) -> bool:
        """Whether it is asked over the network."""
        return self.name.startswith(("http://", "https://"))


class Teacher(NamedTuple):
    """What people call it, what identifies it, and how it is opened."""

    label: str
    identity: str
    open: Callable[[], AbstractContextManager[Answerer]]


def find_teacher(choice: TeacherChoice) -> Teacher:
    """Find a teacher; loads no weights and asks nothing.

    Raises:
        InputError: there is none of that name, or an option is of the other kind.
    """
    return _endpoint(choice) if choice.is_endpoint else _local(choice)


def _endpoint(choice: TeacherChoice) -> Teacher:
    if not choice.model:
        raise InputError("--teacher is an endpoint: name one of its models by --model")
    if choice.engine is not None or choice.context is not None or choice.threads is not None:
        raise InputError("--engine, --context and --threads are of a local teacher; an endpoint has its own")
    endpoint = ChatEndpoint(
        choice.name,
        choice.model,
        key=_key(choice.key_env),
        at_once=choice.at_once,
        timeout_s=choice.timeout_s,
    )

    @contextmanager
    def opened() -> Iterator[Answerer]:
        yield endpoint

    label = f"{choice.model} at {endpoint_address(choice.name)}"
    return Teacher(label, label, opened)


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:  # what was given is not repeated: it may be the key itself
        raise InputError("--key-env: no variable of that name is set; give the name of one that holds the key")
    return key


def _local(choice: TeacherChoice) -> Teacher:
    if choice.model is not None or choice.key_env is not None:
        raise InputError(f"--model and --key-env are of an endpoint; {choice.name} has no http:// in front")
    file = _model_file(choice.name, choice.engine)
    if file is None:
        return _in_torch(choice)

    @contextmanager
    def opened() -> Iterator[Answerer]:
        with open_dialogue(file, context=choice.context, threads=choice.threads) as dialogue:
            yield LocalAnswerer(dialogue.session, dialogue.codec)

    return Teacher(choice.name, f"{file.engine} {_digest(file.path)}", opened)


def _model_file(name: str, engine: str | None) -> ModelFile | None:
    """What an engine opens as it is; None where that is for torch to build, or nothing at all."""
    from edgepress.compress.student.built_in import BUILT_INS, built_in_file

    path = home_path(name)
    if name in BUILT_INS and not path.exists():
        path = built_in_file(name)
    try:
        found = find_models(path)
    except InputError:
        if engine not in (None, "torch"):
            raise
        return None
    if engine == "torch" and "torch" not in [model.engine for model in found]:
        return None
    return choose_model(path, engine)


def _in_torch(choice: TeacherChoice) -> Teacher:
    from edgepress.compress.student.open import open_student

    student = open_student(choice.name)

    @contextmanager
    def opened() -> Iterator[Answerer]:
        from edgepress.runtime.torch_reference import TorchSession

        codec = TextCodec(student.tokenizer_dir)
        with TorchSession(student, context=choice.context, threads=choice.threads) as session:
            yield LocalAnswerer(session, codec)

    return Teacher(choice.name, f"torch {student.digest()}", opened)


def _digest(path: Path) -> str:
    if path.is_file():
        return sha256_file(path)
    files = sorted(file for file in path.iterdir() if file.is_file())
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name} {sha256_file(file)}\n".encode())
    return total.hexdigest()
