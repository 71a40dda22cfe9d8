"""The true KL divergence of a candidate from the original model, on windows that no solver has seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.activations import Activations
from edgepress.artifact.families import EMBEDDING, FINAL_NORM, HEAD
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.one_dnn import linear
from edgepress.compress.calibrate.skeleton import Floats, Skeleton

_TOKENS_AT_ONCE = 128  # of which all logits are held
Change = Callable[[str, Floats], Floats]


class Divergence:
    """Compares candidates with a model over fixed windows, one layer in memory at a time."""

    def __init__(self, source: WeightSource, windows: NDArray[np.int32]) -> None:
        self._source, self._windows = source, windows
        self._skeleton = Skeleton(source, windows)
        self._head = HEAD if HEAD in source.names else EMBEDDING
        self._reference = _final(self._skeleton, _unchanged)

    def of(self, change: Change, activations: Activations | None = None) -> float:
        """Mean KL divergence in nats per token of the model whose tensors went through ``change``.

        Args:
            change: (name, values) → the candidate's values of a tensor.
            activations: of the inputs that the candidate rounds, if it rounds any.
        """
        with self._skeleton.rounded_inputs(activations or Activations()):
            return float(self.per_token(change).mean())

    def of_model(self, other: WeightSource, change: Change | None = None) -> float:
        """Mean KL divergence in nats per token of another model with the same vocabulary, whatever its shape.

        Args:
            other: the model.
            change: what its tensors go through first.
        """
        change = change or _unchanged
        final = _final(Skeleton(other, self._windows), change)
        head = HEAD if HEAD in other.names else EMBEDDING
        return float(self._between(final, change(head, other.read(head))).mean())

    def per_token(self, change: Change) -> NDArray[np.float64]:
        """The divergence at each token, (samples · length,)."""
        return self._between(_final(self._skeleton, change), change(self._head, self._source.read(self._head)))

    @torch.inference_mode()
    def _between(self, final: torch.Tensor, head: Floats) -> NDArray[np.float64]:
        """The divergence of final states behind a head, at each token."""
        original, candidate = torch.from_numpy(self._source.read(self._head)), torch.from_numpy(head)
        found = []
        for before, after in zip(
            self._reference.flatten(0, 1).split(_TOKENS_AT_ONCE),
            final.flatten(0, 1).split(_TOKENS_AT_ONCE),
            strict=True,
        ):
            reference = torch.log_softmax(linear(before, original), -1)
            reached = torch.log_softmax(linear(after, candidate), -1)
            found.append((reference.exp() * (reference - reached)).sum(-1, dtype=torch.float64))
        divergence: NDArray[np.float64] = torch.cat(found).numpy()
        return divergence


def final_states(source: WeightSource, windows: NDArray[np.int32]) -> torch.Tensor:
    """Outputs of a model's final norm, float32, (samples, length, hidden), one layer in memory at a time.

    Args:
        source: the model.
        windows: int32, (samples, length).
    """
    return _final(Skeleton(source, windows), _unchanged).clone()  # a tensor that a backward pass may read


def _unchanged(_name: str, values: Floats) -> Floats:
    return values


@torch.inference_mode()
def _final(skeleton: Skeleton, change: Change) -> torch.Tensor:
    hidden = skeleton.embed(change(EMBEDDING, skeleton.source.read(EMBEDDING)))
    for index in range(len(skeleton.layers)):
        tensors = {name: change(name, values) for name, values in skeleton.read_layer(index).items()}
        layer = skeleton.fill(index, tensors)
        for batch in skeleton.batches:
            hidden[batch] = skeleton.run(layer, index, hidden[batch])
        skeleton.release(index)
    norm = skeleton.final_norm(change(FINAL_NORM, skeleton.source.read(FINAL_NORM)))
    for batch in skeleton.batches:
        hidden[batch] = norm(hidden[batch])
    return hidden
