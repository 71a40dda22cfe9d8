"""Logits that are halves but for those that count: a student's against a cached top k, and a teacher's for the cache.

    z_i = h · B_i, float32, in the top k          z_j = bfloat16(h · B_j) outside of it

A logit near 20 is off by up to 0.06 as a half. In the top k, where a teacher has nearly all of its probability, that
would be noise, so that these are multiplied once more. Outside there is one number to match, the sum of thousands, in
which roundings cancel but for a share of 0.0007 (logits up to 32; 0.003 up to 64); each of them scales its own token's
small gradient by some percent. Divergence and gradient are those of :mod:`~edgepress.compress.distill.sparse_kl`.

Products that end in halves take half the time of those that end in float32 where a processor has bfloat16 dot products
and no tiles, and a row of them fits the inner caches: three walks in place of eight through memory.

A teacher's likeliest are among those that reach the (k + 16)th of the largest values of blocks. They are multiplied
once more and put in order; one that rounding keeps from that company is in the rest, where nothing of it is lost.
"""

from __future__ import annotations

import numpy as np
import torch

from edgepress.compress.compiled import in_bands
from edgepress.compress.distill.config import TEMPERATURES
from edgepress.compress.distill.half_loops import divergence_rows, likeliest_rows
from edgepress.compress.distill.top_k import TopK

_FEW = 4  # rows of thousands of logits that are worth a thread


def to_gradient(
    logits: torch.Tensor,
    hidden: torch.Tensor,
    head: torch.Tensor,
    teacher: TopK,
    temperature: float = 1.0,
    weight: float = 1.0,
) -> float:
    """The sum of the tokens' divergences; ``logits`` become its gradient.

    Args:
        logits: bfloat16 on the CPU, (tokens, vocabulary), contiguous; the gradient when this returns.
        hidden: what they are of, float32, (tokens, hidden).
        head: the other factor, float32, (vocabulary, hidden).
        teacher: its distributions at the temperature.
        temperature: T.
        weight: of the sum and its gradient.
    """
    states, columns, log_probs, log_tail = (
        part.detach().float().contiguous().numpy() for part in (hidden, head, teacher.log_probs, teacher.log_tail)
    )
    factors = logits.view(torch.uint16).numpy(), states, columns
    targets = teacher.ids.contiguous().numpy(), log_probs, log_tail, temperature, weight
    losses = np.empty(len(states), np.float64)
    in_bands(lambda start, stop: divergence_rows(start, stop, *factors, *targets, losses), len(states), _FEW)
    return float(losses.sum())


def likeliest(
    logits: torch.Tensor, hidden: torch.Tensor, head: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k likeliest tokens, their log-probabilities at temperature 1, and the logarithms of the rest's powers.

    Args:
        logits: bfloat16 on the CPU, (tokens, vocabulary), contiguous; overwritten.
        hidden: what they are of, float32, (tokens, hidden).
        head: the other factor, float32, (vocabulary, hidden).
        k: no more than the vocabulary has.

    Returns:
        int64, (tokens, k), the likeliest first; float32, (tokens, k); log Σ p^{1/T} of the others, (tokens, T's).
    """
    ids = torch.empty(len(hidden), k, dtype=torch.int64)
    log_probs, log_tails = torch.empty(len(hidden), k), torch.empty(len(hidden), len(TEMPERATURES))
    factors = logits.view(torch.uint16), hidden.detach().float().contiguous(), head.detach().float().contiguous()
    every = [part.numpy() for part in (*factors, ids, log_probs, log_tails)]
    in_bands(lambda start, stop: likeliest_rows(start, stop, *every), len(hidden), _FEW)
    return ids, log_probs, log_tails
