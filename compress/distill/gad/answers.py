"""Answers behind their prompts as one block of ids, and the student's writing of them.

A block is filled up on the right, where a causal model's earlier states do not see it. Prompts that answers are written
to are filled up on the left, out of attention's sight, so that all of them go on at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from edgepress.compress.distill.gad.pairs import until_end
from edgepress.errors import EdgepressError

Ids = Sequence[int]


@dataclass(frozen=True)
class Block:
    """Texts of several lengths.

    tokens    int64, (texts, length)
    answered  of the token after each: whether it belongs to the answer, bool, (texts, length - 1)
    last      place of each text's last token, int64, (texts,)
    """

    tokens: torch.Tensor
    answered: torch.Tensor
    last: torch.Tensor

    def __getitem__(self, texts: slice) -> Block:
        """Some of the texts."""
        return Block(self.tokens[texts], self.answered[texts], self.last[texts])

    def pieces(self, most_tokens: int) -> list[tuple[slice, Block]]:
        """The block in parts of so many tokens, filling included, or of one text."""
        each = max(1, most_tokens // self.tokens.shape[1])
        rows = [slice(start, start + each) for start in range(0, len(self.tokens), each)]
        return [(part, self[part]) for part in rows]


def block(prompts: Sequence[Ids], answers: Sequence[Ids]) -> Block:
    """Answers behind their prompts; neither may be empty."""
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    tokens = torch.zeros((len(lengths), max(lengths)), dtype=torch.int64)
    answered = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens[row, : lengths[row]] = torch.tensor([*prompt, *answer])
        answered[row, len(prompt) : lengths[row]] = True
    return Block(tokens, answered[:, 1:], torch.tensor(lengths) - 1)


@torch.no_grad()
def write_answers(
    student: Any, prompts: Sequence[Ids], most: int, stop_ids: frozenset[int], generator: torch.Generator
) -> list[list[int]]:
    """Sample an answer to each prompt at temperature 1, the token that ends it included.

    Args:
        student: transformers' causal language model.
        prompts: none of them empty.
        most: tokens of an answer; one that has not ended by then is unfinished.
        stop_ids: tokens that end an answer.
        generator: draws.

    Raises:
        EdgepressError: the student has no probabilities to draw from.
    """
    fed, seen = _filled_on_the_left(prompts)
    places = (seen.cumsum(1) - 1).clamp(min=0)
    cache, written = DynamicCache(config=student.config), torch.zeros((len(prompts), 0), dtype=torch.int64)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.int64)
    while written.shape[1] < most and not bool(torch.isin(written, stops).any(1).all()):
        states = student.model(
            fed, attention_mask=seen, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        odds = torch.softmax((states @ student.lm_head.weight.T).float(), -1)
        if not bool(odds.isfinite().all()):
            raise EdgepressError(
                "training diverged: the student's probabilities are no numbers; lower its learning rate"
            )
        fed = torch.multinomial(odds, 1, generator=generator)
        written = torch.cat([written, fed], 1)
        seen, places = torch.cat([seen, torch.ones_like(fed)], 1), places[:, -1:] + 1
    return [until_end(row, stop_ids) for row in written.tolist()]


def _filled_on_the_left(prompts: Sequence[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, prompts))
    tokens = np.zeros((len(prompts), longest), np.int64)
    seen = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = prompt
        seen[row, longest - len(prompt) :] = 1
    return torch.from_numpy(tokens), torch.from_numpy(seen)
