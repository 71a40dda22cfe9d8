"""Which steps of a recipe go together: their order, and fields that contradict each other or would do nothing."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgepress.artifact.formats import FORMATS, get_format
from edgepress.compress.distill.config import DistillStep
from edgepress.compress.prune.config import Sparsify, TrimVocabulary
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.errors import InputError

Steps = Sequence[msgspec.Struct]


def check_order(steps: Steps, where: str) -> None:
    """One quantize step, and nothing behind it: its codes would not survive. trim_vocabulary first, sparsify last
    before quantize, and no training towards itself.

    Raises:
        InputError: with the place of the step.
    """
    places = [place for place, step in enumerate(steps) if isinstance(step, QuantizeStep)]
    if len(places) > 1:
        raise InputError(f"{where}: compress has {len(places)} quantize steps; one is the most")
    if places and places[0] != len(steps) - 1:
        behind = step_name(type(steps[places[0] + 1]))
        raise InputError(f"{where}: compress[{places[0] + 1}]: {behind} comes after quantize; put quantize last")
    trims = [place for place, step in enumerate(steps) if isinstance(step, TrimVocabulary)]
    if trims and trims[-1]:
        raise InputError(
            f"{where}: compress[{trims[-1]}]: trim_vocabulary comes once and before all other steps: what they lose is "
            "measured against the student with that vocabulary"
        )
    before = [step for step in steps if not isinstance(step, QuantizeStep | TrimVocabulary)]
    _check_zeros_stay(steps, where)
    if before and isinstance(first := before[0], DistillStep):
        raise InputError(
            f"{where}: compress[{steps.index(first)}]: distill trains a student towards what it was before "
            "the steps ahead of it, and there are none; put it behind a pruning step. Rounded weights are trained by "
            "quantize with qad_tokens"
        )


def _check_zeros_stay(steps: Steps, where: str) -> None:
    """Nothing comes between sparsify and quantize, and quantize leaves zeros where they are."""
    places = [place for place, step in enumerate(steps) if isinstance(step, Sparsify)]
    if not places:
        return
    behind = steps[places[0] + 1 :]
    if any(not isinstance(step, QuantizeStep) for step in behind):
        raise InputError(f"{where}: sparsify comes last before quantize: what is behind it would fill the zeros")
    for step in behind:
        if isinstance(step, QuantizeStep):
            _check_keeps_zeros(step, where)


def _check_keeps_zeros(step: QuantizeStep, where: str) -> None:
    if step.solver == "gptaq" or step.qad_tokens or step.budgets or "rotate_v_o" in step.prepare:
        raise InputError(
            f"{where}: quantize behind sparsify: it would fill the zeros that sparsify has made; use solver: "
            "scale_search or nearest with formats that have a zero, without a budget, qad_tokens and rotate_v_o"
        )
    for name in (step.format, *step.formats.values(), *([step.fallback] if step.fallback else [])):
        if not get_format(name).has_zero:
            keep = ", ".join(each.name for each in FORMATS.values() if each.has_zero)
            raise InputError(f"{where}: quantize to {name} behind sparsify: it has no zero; formats that do: {keep}")


def check_quantize(step: QuantizeStep, where: str) -> None:
    """Budgets that can be met together, and no field that would do nothing.

    Raises:
        InputError: which fields.
    """
    _check_budgets(step, where)
    _check_idle(step, where)


def _check_budgets(step: QuantizeStep, where: str) -> None:
    """Budgets that can be met together, and a time with the costs that it is predicted from."""
    rivals = [name for name in step.budgets if name != "target_ms"]
    if len(rivals) > 1:
        raise InputError(f"{where}: {' and '.join(rivals)} cannot both be met for sure; give one")
    if step.target_ms is not None and step.costs is None:
        raise InputError(
            f"{where}: target_ms needs costs, a file that 'edgepress costs STUDENT -o costs.json' writes on the device"
        )
    if step.costs is not None and step.target_ms is None:
        raise InputError(f"{where}: costs bounds nothing without target_ms; give the milliseconds per token")


def _check_idle(step: QuantizeStep, where: str) -> None:
    """Fields that would do nothing without another one."""
    if step.choices and not step.budgets:
        raise InputError(f"{where}: choices are for a budget; add target_mb, target_bpw, max_kld or target_ms")
    if step.qad_samples and not step.qad_tokens:
        raise InputError(f"{where}: qad_samples are to train on; add qad_tokens, how many tokens to take from them")


def step_name(step: type[msgspec.Struct]) -> str:
    """The name that a recipe uses for a step."""
    return str(step.__struct_config__.tag)
