"""A labelling task: what the labels are, how the teacher is asked, and which texts are kept.

    labels: {negative: [" negative", " bad"], positive: [" positive", " good"]}
    template: "Tweet: {text}\nSentiment:"

A verbalizer is what the teacher would write for a label; it is scored as a whole, behind the prompt. In a chat the
filled template is the user's message and a verbalizer begins the answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from edgepress.compress.bounds import Count, Share
from edgepress.compress.calibrate.tokens import read_text, require_file
from edgepress.errors import InputError
from edgepress.runtime.text import TextCodec

Calibration = Literal["none", "contextual", "batch", "prior"]
TEXT = "{text}"


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task file.

    labels            label → its verbalizers
    template          the prompt, with {text} once
    chat              ask in the teacher's chat template
    verbalizers       a label's score: sum, the probability that any of its verbalizers is written (log-sum-exp), or
                      mean, the mean of their log-probabilities
    calibration       how the teacher's leaning is taken off: none, contextual, batch or prior; see ``calibrate``
    content_free      texts that say nothing, for contextual
    prior             label → share of the texts, for prior; without it all labels alike
    near_duplicates   texts of which so much is shared are one; 1 leaves out exact repetitions alone
    margin            least distance of the likeliest label's probability from the next one's
    keep              share of each label's texts that is kept, by that distance
    per_class         texts of a label that are kept at most, the surest first; smallest: as many as the rarest has
    """

    labels: dict[str, tuple[str, ...]]
    template: str
    chat: bool = False
    verbalizers: Literal["sum", "mean"] = "sum"
    calibration: Calibration = "batch"
    content_free: tuple[str, ...] = ("N/A", "[MASK]", "")
    prior: dict[str, Annotated[float, msgspec.Meta(gt=0)]] = {}
    near_duplicates: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    margin: Share = 0.0
    keep: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    per_class: Count | Literal["smallest"] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, in the file's order."""
        return tuple(self.labels)

    @property
    def label_of(self) -> tuple[int, ...]:
        """For every verbalizer, label by label, the place of its label."""
        return tuple(place for place, words in enumerate(self.labels.values()) for _ in words)


class Prompts(msgspec.Struct, frozen=True):
    """Token ids of the prompts, of the verbalizers (label by label), and how many begin all prompts alike."""

    prompts: tuple[tuple[int, ...], ...]
    verbalizers: tuple[tuple[int, ...], ...]
    shared: int


def read_task(path: Path) -> Task:
    """A task from a YAML file.

    Raises:
        InputError: it cannot be read, is not YAML, has an unknown field, or the task cannot be asked.
    """
    require_file("--task", str(path))
    try:
        task = msgspec.convert(yaml.safe_load(read_text(path)), Task)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error
    try:
        check_task(task)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return task


def check_task(task: Task) -> None:
    """Refuse a task that cannot be asked.

    Raises:
        InputError: says which field to change.
    """
    if len(task.labels) < 2:
        raise InputError(f"labels: {len(task.labels)} given; there is nothing to tell apart below two")
    if task.template.count(TEXT) != 1:
        raise InputError(f"template: {TEXT} stands in it {task.template.count(TEXT)} times; put it where the text goes")
    owners: dict[str, str] = {}
    for label, words in task.labels.items():
        if not words or not all(words):
            raise InputError(f"labels: {label!r} has no verbalizer, or an empty one; give what the teacher would write")
        for word in words:
            if word in owners:
                raise InputError(
                    f"labels: {word!r} stands for {owners[word]!r} and for {label!r}; take another for one"
                )
            owners[word] = label
    if task.calibration == "contextual" and not task.content_free:
        raise InputError("content_free: empty, and contextual calibration asks the teacher about such texts")
    if task.prior and (task.calibration != "prior" or set(task.prior) != set(task.labels)):
        wanted = ", ".join(task.labels)
        raise InputError(f"prior: wanted a share for each of {wanted}, and calibration: prior")


def write_prompts(task: Task, codec: TextCodec, texts: tuple[str, ...]) -> Prompts:
    """The prompts of texts as token ids.

    Raises:
        InputError: a prompt has no tokens, the teacher has no chat template, a verbalizer melts into the template's
            end, or two verbalizers are the same tokens.
    """
    prompts = tuple(tuple(_encode(task, codec, text)) for text in texts)
    shortest = min(map(len, prompts))
    if not shortest:
        raise InputError(f"template: with an empty text there is no token to read; put words around {TEXT}")
    first = prompts[0]
    alike = next((at for at in range(shortest) if any(each[at] != first[at] for each in prompts)), shortest)
    return Prompts(prompts, _verbalizers(task, codec), min(alike, shortest - 1))


def _verbalizers(task: Task, codec: TextCodec) -> tuple[tuple[int, ...], ...]:
    prompt = _encode(task, codec, "N/A")
    found: list[tuple[int, ...]] = []
    for label, words in task.labels.items():
        for word in words:
            whole = _encode(task, codec, "N/A", word)
            if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
                raise InputError(
                    f"labels: {label!r}: {word!r} melts into the end of the template, where the teacher reads other "
                    "tokens than it would write; begin it with a space, or take the template's last space away"
                )
            if tuple(whole[len(prompt) :]) in found:
                raise InputError(f"labels: {label!r}: {word!r} is the same tokens as another verbalizer; leave one out")
            found.append(tuple(whole[len(prompt) :]))
    return tuple(found)


def _encode(task: Task, codec: TextCodec, text: str, answer: str = "") -> list[int]:
    filled = task.template.replace(TEXT, text)
    if not task.chat:
        opening = [] if codec.bos is None else [codec.bos]
        return [*opening, *codec.encode(filled + answer, special=False)]
    if codec.template is None:
        raise InputError("chat: the teacher's tokenizer has no chat template; leave it out")
    asked = codec.render([{"role": "user", "content": filled}], answer=True)
    return codec.encode(asked + answer, special=False)
