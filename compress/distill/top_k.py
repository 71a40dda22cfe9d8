"""A next-token distribution in a few hundred bytes: the k likeliest tokens, and the rest as one number.

    ids         uint16, (tokens, k); of a larger vocabulary the low 16 bits
    high_bits   uint8, (tokens, planes, ⌈k / 8⌉): the further bits of the ids, a plane per bit, packed
    log_probs   float16, (tokens, k), at temperature 1, largest first
    log_tails   float16, (tokens, temperatures): log Σ_{i ∉ top k} p_i^{1/T} for each of ``TEMPERATURES``

    bytes a token = 4 k + 2 · 5 + planes ⌈k / 8⌉      k = 64: 266 up to 65536 tokens, 282 up to 262144; k = 96: 394

The temperature comes after loading: p_i(T) = p_i^{1/T} / (Σ_{top k} p_j^{1/T} + Σ_{tail} p_j^{1/T}). The last sum needs
the tail token by token, and is therefore kept for a few temperatures. Loaded numbers sum to 1 again, whatever float16
rounded away.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.compress.distill.config import TEMPERATURES

_LOWEST = -1e4  # float16 ends at -65504; the exponential of this is 0 in any precision

Arrays = dict[str, NDArray[Any]]


class TopK(NamedTuple):
    """Distributions over k tokens and the rest, as :func:`~edgepress.compress.distill.losses.sparse_kl` takes them."""

    ids: torch.Tensor
    log_probs: torch.Tensor
    log_tail: torch.Tensor


def shapes(tokens: int, k: int, vocab: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each array."""
    found: dict[str, tuple[tuple[int, ...], str]] = {
        "ids": ((tokens, k), "uint16"),
        "log_probs": ((tokens, k), "float16"),
        "log_tails": ((tokens, len(TEMPERATURES)), "float16"),
    }
    if planes := _planes(vocab):
        found["high_bits"] = ((tokens, planes, -(-k // 8)), "uint8")
    return found


def bytes_per_token(k: int, vocab: int) -> int:
    """Bytes of one token's distribution."""
    return sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes(1, k, vocab).values())


def pack(logits: torch.Tensor, k: int) -> Arrays:
    """What is kept of a teacher's logits, (tokens, vocabulary), at least k tokens wide."""
    logits = logits.float()
    log_sum = logits.logsumexp(-1, keepdim=True)
    top, ids = logits.topk(k, dim=-1)
    top = top - log_sum
    tails = _log_tails(logits.scatter(-1, ids, float("-inf")), log_sum)
    return arrays(ids, top, tails, logits.shape[-1])


def arrays(ids: torch.Tensor, log_probs: torch.Tensor, log_tails: torch.Tensor, vocab: int) -> Arrays:
    """The same from the numbers themselves: ids, int64, (tokens, k), and what is kept of each as a float."""
    whole = ids.cpu().numpy()
    packed: Arrays = {
        "ids": (whole & 0xFFFF).astype(np.uint16),
        "log_probs": log_probs.clamp(min=_LOWEST).cpu().numpy().astype(np.float16),
        "log_tails": log_tails.clamp(min=_LOWEST).cpu().numpy().astype(np.float16),
    }
    if planes := _planes(vocab):
        bits = [(whole >> (16 + plane)) & 1 for plane in range(planes)]
        packed["high_bits"] = np.packbits(np.stack(bits, 1).astype(np.uint8), axis=-1)
    return packed


def _log_tails(rest: torch.Tensor, log_sum: torch.Tensor) -> torch.Tensor:
    """log Σ (exp z / exp log_sum)^{1/T} for each temperature, (tokens, temperatures).

    All of 1/1, 1/1.5, 1/2, 1/3, 1/4 are multiples of 1/12, and a product is a tenth of an exponential's work.

    Args:
        rest: z, logits outside of the top k and minus infinity in it, (tokens, vocabulary); is overwritten.
        log_sum: of all logits, (tokens, 1).
    """
    largest = rest.amax(-1, keepdim=True).clamp_(min=torch.finfo(rest.dtype).min)  # finite where there is no rest
    root = rest.sub_(largest).div_(12).exp_()
    third = root.square().mul_(root)
    fourth, sixth = root.square().square(), third.square()
    eighth = fourth.square()
    sums = {4.0: third.sum(-1), 3.0: fourth.sum(-1), 2.0: sixth.sum(-1), 1.5: eighth.sum(-1)}
    sums[1.0] = eighth.mul_(fourth).sum(-1)
    scale = (largest - log_sum)[:, 0]
    return torch.stack([sums[temperature].log() + scale / temperature for temperature in TEMPERATURES], -1)


def unpack(packed: Arrays, temperature: float) -> TopK:
    """The distributions at a temperature, one of ``TEMPERATURES``, each summing to 1."""
    place = TEMPERATURES.index(temperature)
    ids = packed["ids"].astype(np.int64)
    if "high_bits" in packed:
        bits = np.unpackbits(packed["high_bits"], axis=-1, count=ids.shape[1])
        for plane in range(bits.shape[1]):
            ids |= bits[:, plane].astype(np.int64) << (16 + plane)
    top = torch.from_numpy(packed["log_probs"].astype(np.float32)) / temperature
    tail = torch.from_numpy(packed["log_tails"][:, place].astype(np.float32))
    both = torch.log_softmax(torch.cat([top, tail[:, None]], -1), -1)
    log_tail = both[:, -1].masked_fill(tail <= _LOWEST, float("-inf"))
    return TopK(torch.from_numpy(ids), both[:, :-1], log_tail)


def _planes(vocab: int) -> int:
    return max(0, (vocab - 1).bit_length() - 16)
