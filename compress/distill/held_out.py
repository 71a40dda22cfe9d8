"""How good a student in training is on text that it is not trained on.

With a teacher that is how far it is from it, Σ p (log p - log q); without one how much the text's own tokens surprise
it, -log q(y). Of text that the teacher wrote, the second is on average the first plus the teacher's entropy, so that it
never falls to 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from edgepress.artifact.families import EMBEDDING, HEAD
from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill.losses import hard_label_cross_entropy, kl
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


class HeldOutWords:
    """The mean cross-entropy with the text's own tokens, at temperature 1, in float32. Needs no teacher."""

    def __init__(self, text: Text) -> None:
        self._tokens = torch.from_numpy(text.tokens.astype(np.int64))
        self._learned = torch.from_numpy(text.learned[:, 1:])

    @torch.no_grad()
    def cross_entropy(self, student: Any) -> float:
        """Nats per learned token.

        Args:
            student: transformers' causal language model.
        """
        each = max(1, _WINDOW_TOKENS_AT_ONCE // self._tokens.shape[1])
        total, count, device = 0.0, 0, student.lm_head.weight.device
        for tokens, learned in zip(self._tokens.split(each), self._learned.split(each), strict=True):
            ours = student.model(tokens.to(device), use_cache=False).last_hidden_state[:, :-1][learned.to(device)]
            labels = tokens[:, 1:][learned].to(device)
            for one, label in zip(ours.split(_TOKENS_AT_ONCE), labels.split(_TOKENS_AT_ONCE), strict=True):
                found = hard_label_cross_entropy(one @ student.lm_head.weight.T, label)
                total, count = total + float(found.sum(dtype=torch.float64)), count + len(found)
        return total / count
