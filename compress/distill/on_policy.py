"""On-policy distillation: the student writes, and the teacher says what it would have said at every token of that.

    L = E_{x ~ text} E_{y ~ q(· | x)} 1/|y| Σ_t D(p(· | x, y_<t), q(· | x, y_<t))        no gradient through y ~ q

x is the beginning of a window of the text, y what the student makes of the rest of it, sampled at temperature 1; D is
any of the divergences, reverse KL or JSD in the papers. A student that is only ever shown good texts never learns what
to do after a mistake of its own. Sources: GKD (arXiv 2306.13649), whose λ, the share of steps on the student's texts,
is ``on_policy`` here; MiniLLM (arXiv 2306.08543) for the reverse KL, without its policy gradient.

After a token that ends an answer nothing more is learned. What is sampled is a function of weights, step and seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from edgepress.compress.distill.config import Training


class OnPolicy:
    """Replaces the text of some steps by what the student makes of its beginnings."""

    def __init__(self, training: Training, stop_ids: frozenset[int], process: int = 0) -> None:
        """Take the settings.

        Args:
            training: with the share of steps, the length of what is kept, and the seed.
            stop_ids: tokens that end an answer.
            process: number of this process among those that train together, of which each has draws of its own.
        """
        self._training, self._stop_ids = training, torch.tensor(sorted(stop_ids), dtype=torch.int64)
        self._process = (process,) if process else ()

    def applies(self, step: int) -> bool:
        """Whether the student writes the text of a step."""
        return bool(np.random.default_rng((self._training.seed, 2, step)).random() < self._training.on_policy)

    def rewrite(self, student: Any, tokens: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the student makes of windows, and which of it is learned.

        Args:
            student: transformers' causal language model.
            tokens: int64, (samples, length); the first ``prompt`` of each stay.
            step: number of the step.

        Returns:
            tokens: int64, (samples, length).
            learned: of the token after each, bool, (samples, length - 1).
        """
        seed = int(np.random.default_rng((self._training.seed, 3, step, *self._process)).integers(2**62))
        prompt, generator = self._training.prompt, torch.Generator(tokens.device).manual_seed(seed)
        written = continue_texts(student, tokens[:, :prompt], tokens.shape[1], generator)
        places = torch.arange(written.shape[1], device=written.device)
        ends = torch.isin(written, self._stop_ids.to(written.device)) & (places >= prompt)
        ended_before = (ends.cumsum(1) - ends.long()) > 0
        learned = ~ended_before[:, 1:]
        learned[:, : prompt - 1] = False
        return written, learned


@torch.no_grad()
def continue_texts(student: Any, prompts: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
    """Sample from the student at temperature 1, all texts at once, int64, (samples, length).

    Args:
        student: transformers' causal language model.
        prompts: int64, (samples, at least 1).
        length: tokens of a text, the prompt's included.
        generator: draws, on the prompts' device.
    """
    cache, written, fed = DynamicCache(config=student.config), prompts, prompts
    while written.shape[1] < length:
        last = student.model(fed, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        odds = torch.softmax((last @ student.lm_head.weight.T).float(), -1)
        fed = torch.multinomial(odds, 1, generator=generator)
        written = torch.cat([written, fed], 1)
    return written
