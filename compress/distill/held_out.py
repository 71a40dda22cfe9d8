"""How far a student in training is from its teacher on text that it is not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from edgepress.artifact.families import EMBEDDING, HEAD
from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill.losses import kl
from edgepress.compress.distill.text import Text
from edgepress.compress.search.divergence import final_states

_TOKENS_AT_ONCE = 128
_WINDOW_TOKENS_AT_ONCE = 2048


class HeldOut:
    """The mean KL divergence from the teacher, over the whole vocabulary, at temperature 1, in float32.

    The teacher runs once, a layer in memory at a time; of it the last states and the head are kept.
    """

    def __init__(self, teacher: WeightSource, text: Text) -> None:
        self._tokens = torch.from_numpy(text.tokens.astype(np.int64))
        self._learned = torch.from_numpy(text.learned[:, 1:])
        self._states = final_states(teacher, text.tokens)[:, :-1]
        self._head = torch.from_numpy(teacher.read(HEAD if HEAD in teacher.names else EMBEDDING))

    @torch.no_grad()
    def divergence(self, student: Any) -> float:
        """Nats per learned token.

        Args:
            student: transformers' causal language model.
        """
        each = max(1, _WINDOW_TOKENS_AT_ONCE // self._tokens.shape[1])
        total, count, device = 0.0, 0, student.lm_head.weight.device
        head = self._head.to(device)
        for tokens, learned, states in zip(
            self._tokens.split(each), self._learned.split(each), self._states.split(each), strict=True
        ):
            ours = student.model(tokens.to(device), use_cache=False).last_hidden_state[:, :-1][learned.to(device)]
            theirs = states[learned].to(device)
            for one, other in zip(ours.split(_TOKENS_AT_ONCE), theirs.split(_TOKENS_AT_ONCE), strict=True):
                found = kl(one @ student.lm_head.weight.T, other @ head.T)
                total, count = total + float(found.sum(dtype=torch.float64)), count + len(found)
        return total / count
