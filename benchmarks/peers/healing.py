"""The same healing for models that different tools have pruned: edgepress's trainer, text, tokens and rate for each."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgepress.compress.distill.config import Loss, Training
from edgepress.compress.distill.held_out import HeldOut
from edgepress.compress.distill.precision import in_bfloat16
from edgepress.compress.distill.targets import CachedTargets
from edgepress.compress.distill.teacher_cache import TeacherCache
from edgepress.compress.distill.text import draw, read_windows, split
from edgepress.compress.distill.train import Trainer
from edgepress.compress.distill.trainer_state import TrainerState
from edgepress.compress.openmp import brief_waits
from edgepress.compress.student.student import Student
from edgepress.runtime.text import TextCodec

_LENGTH, _BATCH_TOKENS = 256, 2048


def heal(teacher: Student, model: Any, files: list[str], tokens: int, rate: float) -> tuple[float, float]:
    """Train a pruned model, in place, towards what it was pruned from.

    Args:
        teacher: the model as it was.
        model: transformers' causal language model, pruned; its embedding is trained if it is narrower than it was.
        files: text to train on.
        tokens: of it, in whole steps of 2,048.
        rate: the highest learning rate.

    Returns:
        Divergence on text held out, before and behind.
    """
    loss, narrowed = Loss(), model.get_input_embeddings().weight.shape[1] < teacher.spec.hidden
    training = Training(
        tokens=tokens,
        length=_LENGTH,
        batch_tokens=_BATCH_TOKENS,
        rate=rate,
        embedding="trained" if narrowed else "frozen",
    )
    text, held_out = split(read_windows(TextCodec(teacher.tokenizer_dir), tuple(files), _LENGTH), training.seed)
    text = draw(text, training.steps * training.windows_per_step)
    size = teacher.spec.depth, teacher.spec.hidden
    model.zero_grad(set_to_none=True)  # some tools leave what they judged by
    with tempfile.TemporaryDirectory(prefix="edgepress-healing-") as folder, brief_waits():
        cache = TeacherCache(teacher, text.tokens, training.top_k, in_bfloat16=in_bfloat16(training))
        trainer = Trainer(model, CachedTargets(cache, loss), text, loss, training, size)
        run = trainer.train(TrainerState(Path(folder)), HeldOut(teacher, held_out).divergence)
    return run.checks[0].held_out, run.best.held_out
