"""What a linear layer should compute once the layers before it are quantized: the asymmetric target.

With H = E w x xᵀ over inputs x as they come from the quantized prefix, and D = E w (x° - x) xᵀ the drift from the
original inputs x°, the real-valued matrix with the least E w ‖W' x - W x°‖² is W (H + D) H⁻¹ = W + W D H⁻¹. It makes
up for what the layers before it lost, as far as that can be told from x. Estimated from a finite text it overshoots, so

    W* = W + α W D (H + λI)⁻¹            λ = damping · mean diag H

and the rounding error is measured as (Ŵ - W*) (H + λI) (Ŵ - W*)ᵀ, whose λ also keeps Ŵ near W* where the text says
nothing.

Source: Li et al., GPTAQ (arXiv 2504.02692), whose term P moves the weights column by column during the sweep; in exact
arithmetic both aim at the same W*. The α is GPTQModel's; its value was chosen by KL divergence (docs/LOG.md).
"""

from __future__ import annotations

import torch

from edgepress.compress.calibrate.moments import InputStatistics

DAMPING = 0.05
STRENGTH = 0.5


def damped(hessian: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """H + damping · mean diag H · I; the identity where H is zero, since then no input tells anything."""
    mean = float(hessian.diagonal().mean())
    ridge = damping * mean if mean > 0 else 1.0
    result: torch.Tensor = hessian + ridge * torch.eye(len(hessian), dtype=hessian.dtype)
    return result


def asymmetric_target(
    weight: torch.Tensor, statistics: InputStatistics, hessian: torch.Tensor, strength: float = STRENGTH
) -> torch.Tensor:
    """W* of the module docstring.

    Args:
        weight: float32, (rows, columns).
        statistics: of the layer's inputs.
        hessian: the damped H, float64.
        strength: α; 0 leaves the weights as they are, 1 is the least-squares solution.
    """
    if statistics.drift is None or strength == 0:
        return weight
    moved = weight.double() @ statistics.drift
    correction: torch.Tensor = torch.linalg.solve(hessian, moved.T).T
    return weight + (strength * correction).float()
