"""The embedding's statistics: it is looked up, and where it is tied it is the head as well.

As the head, a row's error δ changes a logit by δ·x, x the final norm's output. As the embedding, δ enters the first
layer as it is. So a tied embedding is solved for

    H = E w x xᵀ + μ · mean diag(E w x xᵀ) · I

with x from the original model, whose body has not been solved yet when the first layer needs the embedding. One that is
only looked up counts all its features alike. The μ comes on top of the solver's damping.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.bfloat16 import has_native_bfloat16
from edgepress.compress.calibrate.moments import InputStatistics, Moments
from edgepress.compress.calibrate.skeleton import Skeleton

LOOK_UP_SHARE = 0.02


def embedding_statistics(source: WeightSource, windows: NDArray[np.int32]) -> InputStatistics:
    """H of the module docstring; the identity for an embedding that is not tied."""
    return with_look_up(_head_inputs(source, windows) if source.spec.tied else None, source.spec.hidden)


def with_look_up(head: InputStatistics | None, hidden: int) -> InputStatistics:
    """Statistics of an embedding that is also the head with inputs ``head``, or only looked up where that is None."""
    identity = torch.eye(hidden, dtype=torch.float64)
    if head is None:
        return InputStatistics(hessian=identity)
    return InputStatistics(hessian=head.hessian + LOOK_UP_SHARE * head.hessian.diagonal().mean() * identity)


@torch.inference_mode()
def _head_inputs(source: WeightSource, windows: NDArray[np.int32]) -> InputStatistics:
    """Moments of the original model's final norm output. Products are in bfloat16 where the processor has them: what
    that changes is far below what another text would.
    """
    skeleton = Skeleton(source, windows)
    hidden = skeleton.embed()
    with torch.autocast("cpu", torch.bfloat16, enabled=has_native_bfloat16()):
        for index in range(len(skeleton.layers)):
            layer = skeleton.fill(index, skeleton.read_layer(index))
            for batch in skeleton.batches:
                hidden[batch] = skeleton.run(layer, index, hidden[batch])
            skeleton.release(index)
    norm, moments = skeleton.final_norm(), Moments()
    for batch in skeleton.batches:
        moments.add(norm(hidden[batch]), None)
    return moments.finish()
