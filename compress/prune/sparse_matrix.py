"""Zeros inside a matrix, one-shot: which weights go, and what the others do about it.

SparseGPT walks over the columns from left to right. A weight w of column c costs, if every later column answers
optimally,

    w² / U_cc²,        H⁻¹ = Uᵀ U,  H = E w x xᵀ + λ I

and when it goes, the later columns of its row move by  - w / U_cc · U_c,>c  (Frantar & Alistarh, arXiv 2301.00774).
In an n:m pattern each m neighbouring inputs of a row lose those of least cost as the walk reaches them. Without a
pattern the share of a block of columns goes that costs least, over all its rows together.

Wanda (Sun et al., arXiv 2306.11695) zeroes by |w| · sqrt(H_cc), row by row, and moves nothing; magnitude by |w|, over
the whole matrix. They are here to compare with.

Where we depart from SparseGPT: blocks of 32 columns and not 128, since costs within a block do not know of each other
(on 128 columns that hang together the loss is half); tokens count alike whatever their energy (``moments``); and the
walk starts from the asymmetric target of the quantizer (``gptaq.target``): a matrix makes up for those before it.
"""

from __future__ import annotations

import msgspec
import torch

_BLOCK = 32


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """``zeros`` of every ``of`` neighbouring inputs, or a ``share`` of the matrix anywhere where ``of`` is 0."""

    zeros: int = 0
    of: int = 0
    share: float = 0.0


def sparsegpt(target: torch.Tensor, upper: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The sparse matrix, float32, (rows, columns).

    Args:
        target: float32, (rows, columns), what the matrix would be without zeros.
        upper: U, float64, (columns, columns).
        pattern: where zeros go.
    """
    left, factor = target.double(), upper.double()
    for start in range(0, left.shape[1], _BLOCK):
        block = slice(start, min(start + _BLOCK, left.shape[1]))
        errors = _block(left, factor, block, pattern)
        left[:, block.stop :] -= errors @ factor[block, block.stop :]
    return left.float()


def wanda(weight: torch.Tensor, diagonal: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The matrix with the weights of least |w| · sqrt(H_cc) at zero, row by row.

    Args:
        weight: float32, (rows, columns).
        diagonal: of H, (columns,).
        pattern: where zeros go.
    """
    scores = weight.double().abs() * diagonal.double().clamp(min=0).sqrt()
    return weight.masked_fill(_least(scores, pattern) if pattern.of else _least_share(scores, pattern.share), 0)


def magnitude(weight: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The matrix with its smallest weights at zero."""
    scores = weight.abs()
    if pattern.of:
        return weight.masked_fill(_least(scores, pattern), 0)
    return weight.masked_fill(_least_share(scores.reshape(1, -1), pattern.share).view_as(scores), 0)


def _block(left: torch.Tensor, factor: torch.Tensor, block: slice, pattern: Pattern) -> torch.Tensor:
    """Zero weights of a block in place; what its columns have lost, (rows, columns), each over its U_cc."""
    errors, diagonal = torch.zeros_like(left[:, block]), factor.diagonal()
    gone = torch.zeros_like(errors, dtype=torch.bool)
    if not pattern.of:
        costs = (left[:, block] / diagonal[block]).square()
        gone = _least_share(costs.reshape(1, -1), pattern.share).view_as(costs)
    for place, column in enumerate(range(block.start, block.stop)):
        if pattern.of and column % pattern.of == 0:
            group = slice(column, column + pattern.of)
            gone[:, place : place + pattern.of] = _least((left[:, group] / diagonal[group]).square(), pattern)
        lost = torch.where(gone[:, place], left[:, column], 0)
        left[:, column] -= lost
        errors[:, place] = lost / diagonal[column]
        behind = slice(column + 1, block.stop)
        left[:, behind] -= torch.outer(errors[:, place], factor[column, behind])
    return errors


def _least(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The ``zeros`` of least score of every ``of`` neighbours, as a mask."""
    groups = scores.reshape(len(scores), -1, pattern.of)
    places = groups.argsort(dim=-1, stable=True)[..., : pattern.zeros]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, places, True).view_as(scores)


def _least_share(scores: torch.Tensor, share: float) -> torch.Tensor:
    """The share of least score of every row, as a mask."""
    places = scores.argsort(dim=-1, stable=True)[..., : round(share * scores.shape[1])]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, places, True)
