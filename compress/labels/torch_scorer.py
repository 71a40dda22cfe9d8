"""A teacher in torch that scores verbalizers.

The tokens that all prompts begin with are computed once. Every text is computed by itself from there, so that its
scores do not depend on which texts came before it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from edgepress.artifact.weights import WeightSource
from edgepress.compress.labels.score import sequence_log_probability
from edgepress.compress.labels.task import Prompts
from edgepress.runtime.torch_reference import load_model


class TorchScorer:
    """A teacher in torch, float32, that keeps keys and values of what all prompts begin with."""

    def __init__(self, teacher: WeightSource, asked: Prompts) -> None:
        self._model = load_model(teacher)
        self._verbalizers, self._shared = asked.verbalizers, asked.shared
        self._beginning = DynamicCache(config=self._model.config)
        if self._shared:
            self._read(asked.prompts[0][: self._shared], self._beginning)

    def score(self, prompt: Sequence[int]) -> NDArray[np.float64]:
        """See :class:`~edgepress.compress.labels.score.Scorer`."""
        cache = copy.deepcopy(self._beginning)
        first = self._read(prompt[self._shared :], cache)[-1:]
        found = []
        for tokens in self._verbalizers:
            logits = first
            if len(tokens) > 1:
                logits = np.concatenate([first, self._read(tokens[:-1], copy.deepcopy(cache), len(tokens) - 1)])
            found.append(sequence_log_probability(logits, tokens))
        return np.array(found)

    @torch.inference_mode()
    def _read(self, tokens: Sequence[int], cache: DynamicCache, wanted: int = 1) -> NDArray[np.float32]:
        """Append tokens to a cache; the logits after the last ``wanted`` of them, (wanted, vocab)."""
        batch = torch.tensor([list(tokens)])
        states = self._model.model(batch, past_key_values=cache, use_cache=True).last_hidden_state
        logits: NDArray[np.float32] = self._model.lm_head(states[0, -wanted:]).float().numpy()
        return logits
