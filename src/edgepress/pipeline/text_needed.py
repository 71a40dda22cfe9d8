"""Which recipes need calibration text: written by the student or read from files before anything else."""

from __future__ import annotations

from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.prepare.apply import looks_at_text
from edgepress.recipe import Recipe


def needs_calibration(recipe: Recipe) -> bool:
    """Whether any step looks at activations."""
    trims_by_it = recipe.trimming is not None and not recipe.trimming.files
    return bool(recipe.pruning) or trims_by_it or rounding_needs_text(recipe.quantize)


def rounding_needs_text(step: QuantizeStep) -> bool:
    """Whether the quantize step itself looks at activations."""
    rounds_by_it = step.solver != "nearest" or step.activations != "float"
    return rounds_by_it or bool(step.budgets) or looks_at_text(step) or step.qad_tokens > 0
