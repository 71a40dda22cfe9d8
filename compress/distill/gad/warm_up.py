"""Before anything adversarial the student learns the teacher's answers by cross-entropy (sequence-level distillation).

    L = mean over the tokens of the teacher's answers of -log π(y_t | x, y_<t)

It is the trainer's loss of hard labels, with an answer and its prompt for a window. The student goes on from the state
that says held-out answers best, the start included. Source: arXiv 1606.07947.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.compress.distill.config import Loss, Training
from edgepress.compress.distill.gad.answers import Block, block
from edgepress.compress.distill.gad.config import GadSettings
from edgepress.compress.distill.gad.pairs import Pair
from edgepress.compress.distill.gad.policy import log_probs_of
from edgepress.compress.distill.targets import TextOnly
from edgepress.compress.distill.text import Text
from edgepress.compress.distill.train import Trainer
from edgepress.compress.distill.trainer_state import Progress, TrainerState


def warm_up(
    student: Any, pairs: list[Pair], held_out: list[Pair], settings: GadSettings, state: TrainerState
) -> Progress:
    """Train the student in place, from the saved state where there is one.

    Args:
        student: transformers' causal language model.
        pairs, held_out: to learn, and to judge by.
        settings: how.
        state: where the run is saved.
    """
    texts, judged_by = as_block(pairs), as_block(held_out)
    training = _training(len(pairs), texts.tokens.shape[1], settings)
    learned = np.zeros(texts.tokens.shape, np.bool_)
    learned[:, 1:] = texts.answered.numpy()
    text = Text(texts.tokens.numpy().astype(np.int32), learned)
    loss = Loss(kl=0, hard_labels=1)
    trainer = Trainer(student, TextOnly(), text, loss, training, (0, 0))
    piece_tokens = settings.gad.piece_tokens
    return trainer.train(state, lambda model: cross_entropy(model, judged_by, piece_tokens), "cross-entropy")


def cross_entropy(student: Any, texts: Block, piece_tokens: int) -> float:
    """With the answers' tokens, nats per token."""
    return -float(log_probs_of(student, texts, piece_tokens).double().mean())


def as_block(pairs: list[Pair]) -> Block:
    """The teacher's answers behind their prompts."""
    return block([pair.prompt for pair in pairs], [pair.answer for pair in pairs])


def _training(count: int, length: int, settings: GadSettings) -> Training:
    """Steps in whole batches; what is counted as tokens includes the filling up."""
    chosen = settings.warm_up
    batch = min(chosen.batch, count)
    steps = max(1, round(chosen.passes * count / batch))
    return Training(
        tokens=steps * batch * length,
        length=length,
        batch_tokens=batch * length,
        piece_tokens=settings.gad.piece_tokens,
        top_k=0,
        rate=chosen.rate,
        checks=min(chosen.checks, steps),
        seed=settings.gad.seed,
    )
