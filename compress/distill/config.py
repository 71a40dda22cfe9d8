"""What distillation can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from edgepress.artifact.families import LAYER
from edgepress.compress.bounds import Count, Natural, Positive, Seed, Share, Weight
from edgepress.errors import InputError

Distance = Literal["mse", "cosine"]
_LAYERS = LAYER.partition("{")[0]
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0)  # that a teacher's cache knows the tails at


class Loss(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Weights of the parts of the loss; a part of weight 0 costs nothing.

    kl, reverse_kl, jsd   divergences from the teacher at ``temperature``; jsd with ``beta``
    hard_labels           cross-entropy with the text's own tokens
    hidden                distance of hidden states, ``hidden_distance``; falls linearly to 0 from two thirds of the run
    """

    kl: Weight = 1.0
    reverse_kl: Weight = 0.0
    jsd: Weight = 0.0
    beta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    temperature: Positive = 1.0
    hard_labels: Weight = 0.0
    hidden: Weight = 0.0
    hidden_distance: Distance = "mse"

    @property
    def needs_teacher(self) -> bool:
        """Whether anything but the text is learned from."""
        return bool(self.kl or self.reverse_kl or self.jsd or self.hidden)

    @property
    def of_logits(self) -> bool:
        """Whether any part needs the student's logits."""
        return bool(self.kl or self.reverse_kl or self.jsd or self.hard_labels)

    @property
    def from_top_k(self) -> bool:
        """Whether the teacher's cache has all that is needed."""
        return not (self.reverse_kl or self.jsd or self.hidden)


class Lora(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Low-rank adapters on every matrix of the layers; all else is frozen.

    rank    of the change of a matrix
    alpha   the change is alpha / rank times the product of the adapter's two matrices
    """

    rank: Count = 16
    alpha: Positive = 32.0


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a student is trained.

    tokens         to train on, in whole steps; the text is read again in another order when it is used up
    length         of a window
    batch_tokens   a step; gathered in pieces of ``piece_tokens``, which bounds the memory
    top_k          tokens of the teacher's cache; 0 runs the teacher alongside
    rate           the highest learning rate of AdamW, after ``warm_up``, a share of the steps, and before a cosine to 0
    weight_decay   of matrices, not of gains and biases
    checks         how often the student is judged on held-out text, evenly over the run: by the divergence from the
                   teacher, or without one by the cross-entropy
    patience       checks without a better one before the run ends; 0 runs to the end
    keep           the student is the state of the best check, or the last; checks take the KL divergence on text, which
                   says little about a student that is trained by another one or on what it writes
    save_steps     steps between saved states
    checkpointing  compute activations again in the backward pass rather than keep them
    on_policy      share of the steps on texts that the student writes, from the first ``prompt`` tokens of a window
    precision      auto multiplies in bfloat16 where the processor or GPU does so natively; the teacher as well
    lora           train adapters of a low rank and add them to the matrices at the end; None trains all parameters
    embedding      frozen leaves it as it is, and with it a head that is tied to it; with ``lora`` it is so in any case
    seed           of the order of the text, of what is held out, of the projectors and the adapters
    """

    tokens: Count = 1_000_000
    length: Annotated[int, msgspec.Meta(ge=8)] = 256
    batch_tokens: Count = 4096
    piece_tokens: Count = 2048
    top_k: Natural = 64
    rate: Positive = 1e-3
    warm_up: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.05
    weight_decay: Weight = 0.0
    checks: Count = 10
    patience: Natural = 0
    keep: Literal["best", "last"] = "best"
    save_steps: Count = 50
    checkpointing: bool = False
    on_policy: Share = 0.0
    prompt: Count = 16
    precision: Literal["auto", "float32"] = "auto"
    lora: Lora | None = None
    embedding: Literal["trained", "frozen"] = "trained"
    seed: Seed = 0

    @property
    def windows_per_step(self) -> int:
        """Windows that a step reads."""
        return max(1, self.batch_tokens // self.length)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return max(1, self.tokens // (self.windows_per_step * self.length))


class DistillStep(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="distill"
):
    """Train what the steps before have left towards the student as it came in.

    teacher        original: the student before the first step
    tokens         to train on, in whole steps; the text is read again in another order when it is used up
    files          text, JSONL of {text} or {messages}, or datasets; without any it is the calibration text
    loss           what counts
    length         of a window of files
    batch_tokens   and top_k, rate, checkpointing, lora: as in a distillation's settings
    embedding      as there; auto freezes it where it is the teacher's still, which prune_hidden's is not
    """

    tokens: Count
    teacher: Literal["original"] = "original"
    files: tuple[str, ...] = ()
    loss: Loss = Loss()
    length: Annotated[int, msgspec.Meta(ge=8)] = 256
    batch_tokens: Count = 4096
    top_k: Natural = 64
    rate: Positive = 1e-4
    checkpointing: bool = False
    lora: Lora | None = None
    embedding: Literal["auto", "trained", "frozen"] = "auto"

    def training(self, length: int, seed: int, *, narrowed: bool = False) -> Training:
        """How it is trained, on windows of that length.

        Args:
            length: of a window.
            seed: of the order of the text and of what is held out.
            narrowed: whether the student's embedding has other channels than its teacher's.
        """
        by_width: Literal["trained", "frozen"] = "trained" if narrowed else "frozen"
        return Training(
            tokens=self.tokens,
            length=length,
            batch_tokens=self.batch_tokens,
            top_k=self.top_k,
            rate=self.rate,
            checkpointing=self.checkpointing,
            lora=self.lora,
            embedding=by_width if self.embedding == "auto" else self.embedding,
            seed=seed,
        )


def check_loss(loss: Loss, training: Training, vocab: int) -> None:
    """Refuse a loss without parts, and one that a cache of the teacher cannot give.

    Args:
        loss, training: what was asked for.
        vocab: tokens of the teacher's vocabulary.

    Raises:
        InputError: says which field to change.
    """
    if not (loss.needs_teacher or loss.hard_labels):
        raise InputError("loss: all weights are 0; give kl, reverse_kl, jsd, hard_labels or hidden a weight")
    if training.on_policy:
        _check_on_policy(loss, training)
    if not training.top_k or not loss.needs_teacher:
        return
    if not loss.from_top_k:
        parts = ", ".join(name for name in ("reverse_kl", "jsd", "hidden") if getattr(loss, name))
        raise InputError(
            f"loss: {parts} needs more of the teacher than a cache of its top_k; set top_k: 0 (train.top_k in a "
            "settings file)"
        )
    if training.top_k > vocab:
        raise InputError(f"top_k: {training.top_k}, and the teacher's vocabulary has {vocab}; take that or less")
    if loss.temperature not in TEMPERATURES:
        known = ", ".join(f"{value:g}" for value in TEMPERATURES)
        raise InputError(
            f"loss.temperature: {loss.temperature:g} is not among those that a teacher's cache keeps tails for "
            f"({known}); take one of them, or run the teacher alongside (top_k: 0; train.top_k in a settings file)"
        )


def check_rank(lora: Lora | None, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse adapters of a rank that a matrix does not have.

    Args:
        lora: what was asked for.
        shapes: of the student's tensors, by name.

    Raises:
        InputError: names the smallest matrix.
    """
    matrices = {name: shape for name, shape in shapes.items() if name.startswith(_LAYERS) and len(shape) == 2}
    smallest = min(matrices, key=lambda name: min(matrices[name]))
    most = min(matrices[smallest])
    if lora and lora.rank > most:
        rows, columns = matrices[smallest]
        raise InputError(
            f"lora.rank: {lora.rank} is more than {smallest} of {rows} × {columns} has; take {most} or less"
        )


def check_without_teacher(loss: Loss, training: Training) -> None:
    """Refuse what only a teacher can give, where there is none.

    Raises:
        InputError: says which part of the loss, or which setting.
    """
    parts = ", ".join(name for name in ("kl", "reverse_kl", "jsd", "hidden") if getattr(loss, name))
    if parts:
        raise InputError(
            f"loss: {parts} needs a teacher, and none is given; give --teacher, or learn the text's own words alone "
            "(--settings black_box, or loss: {kl: 0, hard_labels: 1})"
        )
    if loss.temperature != 1:
        raise InputError("loss.temperature belongs to a teacher's distributions; leave it out, or give --teacher")
    if training.on_policy:
        raise InputError("train.on_policy: only a teacher can say what the student should have written; give --teacher")
    if not loss.hard_labels:
        raise InputError("loss: all weights are 0; without a teacher, give hard_labels a weight")


def _check_on_policy(loss: Loss, training: Training) -> None:
    if training.top_k and loss.needs_teacher:
        raise InputError("train.on_policy: no cache knows texts that are yet to be written; set train.top_k: 0")
    if loss.hard_labels:
        raise InputError(
            "loss.hard_labels: with train.on_policy the labels would be the student's own samples, which teach it "
            "nothing; set it to 0"
        )
    if training.prompt >= training.length:
        raise InputError(
            f"train.prompt: {training.prompt} of a window's {training.length} tokens stay, which leaves the student "
            "nothing to write; take less"
        )
