"""A teacher's scores of many texts on disk, so that it reads each of them once.

Cut into shards. A shard is an entry of the cache, named by the digests of the teacher, of its prompts and of the
verbalizers: it appears whole or not at all, so that a killed run goes on after its last whole shard, and other rules of
calibration and choice cost nothing. Beside the scores lies what they took, which is not part of the name.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.cache import cached
from edgepress.benchmarks.process_memory import read_status
from edgepress.compress.labels.score import Scorer, SessionScorer
from edgepress.compress.labels.task import Prompts
from edgepress.compress.openmp import brief_waits
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.remembered import model_identity
from edgepress.progress import Advance, progress
from edgepress.runtime.locate import ModelFile, open_session

_VERSION = 1
_SHARD_TEXTS = 32
_SCORES, _TOOK = "scores.npy", "took.json"


class Teacher(NamedTuple):
    """Who labels: a student's files, computed in torch, or the file of a run in its engine."""

    student: Student
    model: ModelFile | None = None

    @property
    def digest(self) -> str:
        """Changes with the weights, the tokenizer and the engine."""
        own = self.student.digest()
        return own if self.model is None else f"{own} {self.model.engine} {model_identity(self.model)}"

    def scorer(self, asked: Prompts, context: int) -> AbstractContextManager[Scorer]:
        """The teacher, loaded; close it."""
        if self.model is None:
            from edgepress.compress.labels.torch_scorer import TorchScorer

            return nullcontext(TorchScorer(self.student, asked))
        return _Opened(self.model, asked, context)


class _Opened(AbstractContextManager[Scorer]):
    def __init__(self, model: ModelFile, asked: Prompts, context: int) -> None:
        self._session = open_session(model, context=context)
        self._scorer = SessionScorer(self._session, asked.verbalizers)

    def __enter__(self) -> Scorer:
        return self._scorer

    def __exit__(self, *_: object) -> None:
        self._session.close()


class Took(msgspec.Struct, frozen=True):
    """Seconds of scoring each text, and the greatest memory of the process until then."""

    seconds: tuple[float, ...]
    peak_rss_bytes: int


class Scored(NamedTuple):
    """Log-probabilities of the verbalizers in nats, float64, (texts, verbalizers), and what they took."""

    scores: NDArray[np.float64]
    took: Took


def score_texts(teacher: Teacher, asked: Prompts) -> Scored:
    """Score all prompts, those in the cache excepted; the teacher is loaded when one is missing.

    Raises:
        InputError: a shard on disk is damaged.
    """
    longest = max(map(len, asked.prompts)) + max(map(len, asked.verbalizers))
    count = len(asked.prompts)
    opened: list[tuple[AbstractContextManager[Scorer], Scorer]] = []

    def scorer() -> Scorer:
        if not opened:
            context = teacher.scorer(asked, longest)
            opened.append((context, context.__enter__()))
        return opened[0][1]

    try:
        with brief_waits(), progress("label", count, unit="texts") as advance:
            shards = []
            for start in range(0, count, _SHARD_TEXTS):
                part = asked.prompts[start : start + _SHARD_TEXTS]
                make = partial(_write, scorer, part, advance)
                shards.append(_read(cached("labels", _key(teacher, asked, part), make), len(part), asked))
    finally:
        for context, _ in opened:
            context.__exit__(None, None, None)
    seconds = tuple(each for _, took in shards for each in took.seconds)
    took = Took(seconds, max(took.peak_rss_bytes for _, took in shards))
    return Scored(np.concatenate([scores for scores, _ in shards]), took)


def _write(
    scorer: Callable[[], Scorer], prompts: tuple[tuple[int, ...], ...], advance: Advance, directory: Path
) -> None:
    ready = scorer()
    rows, seconds = [], []
    for prompt in prompts:
        started = time.perf_counter()
        rows.append(ready.score(prompt))
        seconds.append(time.perf_counter() - started)
        advance(1)
    took = Took(tuple(seconds), read_status().get("VmHWM", 0))
    np.save(directory / _SCORES, np.array(rows, np.float64))
    (directory / _TOOK).write_bytes(msgspec.json.encode(took))


def _read(directory: Path, count: int, asked: Prompts) -> tuple[NDArray[np.float64], Took]:
    try:
        scores = np.load(directory / _SCORES, allow_pickle=False)
        took = msgspec.json.decode((directory / _TOOK).read_bytes(), type=Took)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{directory}: damaged scores ({error}); remove it and run the same command again") from error
    if scores.shape != (count, len(asked.verbalizers)) or not np.isfinite(scores).all():
        raise InputError(f"{directory}: damaged scores (shape {scores.shape}); remove it and run the command again")
    return scores, took


def _key(teacher: Teacher, asked: Prompts, prompts: tuple[tuple[int, ...], ...]) -> str:
    parts = (_VERSION, teacher.digest, asked.verbalizers, asked.shared, prompts)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
