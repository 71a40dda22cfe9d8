"""A budget for a file becomes formats for its tensors: what each costs in that file, and the search within the rest.

The cost of a format is what the exporter itself predicts, so that the budget holds to the byte: one matrix of each
shape is put in each format, and the predicted file grows by what that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from edgepress.artifact.formats import get_format
from edgepress.compress.quantize.assign import free_choices
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.recipe import ExportTarget

# What a budget chooses from when the recipe does not say: per target, formats that buy quality with every byte.
USUAL: dict[ExportTarget, tuple[str, ...]] = {
    "gguf": ("q3_K", "iq4_xs", "iq4_nl", "q4_K", "q5_0", "q5_K", "q6_K", "q8_0"),
    "onnx": ("q4_0", "q8_0"),
    "tensorrt": ("trt_int4_128", "trt_int4_64", "f16"),
}

# How often a model is solved at most to meet a bound on its divergence.
SOLVES_FOR_A_BOUND = 3


def smallest_formats(student: Student, step: QuantizeStep, target: ExportTarget) -> dict[str, str]:
    """The cheapest choice for every matrix that is free; no other assignment makes a smaller file.

    Raises:
        InputError: see :func:`~edgepress.compress.quantize.assign.free_choices`.
    """
    free = free_choices(student, step, USUAL[target])
    return {name: min(formats, key=lambda format: get_format(format).bits_per_value) for name, formats in free.items()}


def target_bytes(student: Student, step: QuantizeStep) -> int | None:
    """The budget in bytes of the whole file; None for a bound on the divergence."""
    if step.target_mb is not None:
        return int(step.target_mb * 1e6)
    if step.target_bpw is not None:
        return int(step.target_bpw * sum(prod(student.shape(name)) for name in student.names) / 8)
    return None


def check_budget(smallest_bytes: int, budget: int | None, step: QuantizeStep, fell_back: Sequence[str] = ()) -> None:
    """Refuse a budget below the smallest file; ``fell_back`` are matrices that no choice fits.

    Raises:
        InputError: says how large the smallest file is.
    """
    if budget is not None and smallest_bytes > budget:
        raise InputError(
            f"{step.budgets[0]}: {getattr(step, step.budgets[0]):g} allows {budget / 1e6:.3f} MB, and the smallest "
            f"file takes {smallest_bytes / 1e6:.3f} MB{_with_fallbacks(fell_back)}; "
            f"raise it, or add smaller formats to 'choices'"
        )


def _with_fallbacks(names: Sequence[str]) -> str:
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f", in which {names[0]}{others} fell back to a format that fits" if names else ""


def format_sizes(
    student: Student, step: QuantizeStep, target: ExportTarget, file_bytes: Callable[[Mapping[str, str]], int]
) -> tuple[dict[str, dict[str, int]], int]:
    """Bytes of every free matrix in every format, and the bytes of the file that are not theirs.

    Args:
        student: the model.
        step: the recipe's step.
        target: whose file it is.
        file_bytes: formats of the free matrices → bytes of the target's files.
    """
    free = free_choices(student, step, USUAL[target])
    smallest = smallest_formats(student, step, target)
    base = file_bytes(smallest)
    known: dict[tuple[tuple[int, ...], str, str], int] = {}
    sizes: dict[str, dict[str, int]] = {}
    for name, formats in free.items():
        shape, least = student.shape(name), smallest[name]
        place = name.rpartition(".layers.")[0] or name
        stored = get_format(least).tensor_bytes(prod(shape), shape[0])
        for format in formats:
            key = (shape, format, place)
            if key not in known:
                known[key] = file_bytes(smallest | {name: format}) - base
            sizes.setdefault(name, {})[format] = stored + known[key]
    return sizes, base - sum(sizes[name][format] for name, format in smallest.items())
