"""``measurements/shape.json``: what the steps before quantize made of a model's shape, and what each lost."""

from __future__ import annotations

import msgspec

from edgepress.artifact.spec import LayerSpec

SHAPE_FILE = "shape.json"


class StageLoss(msgspec.Struct, frozen=True, kw_only=True):
    """A step and the model behind it: KL divergence from the student (with the smaller vocabulary, where that was
    trimmed), in nats per token, of all steps so far; ``removed_kld`` is that behind the removal, before what stays is
    solved for it. None where it was not measured.
    """

    step: str
    parameters: int
    kld: float | None = None
    removed_kld: float | None = None


class ShapeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The student's shape, and for each layer that is left, its place in the student. ``tokens`` of the evaluation text
    were judged by; none where the recipe has no evaluation.
    """

    vocab: int
    hidden: int
    parameters: int
    layers: tuple[LayerSpec, ...]
    places: tuple[int, ...]
    stages: tuple[StageLoss, ...]
    tokens: int
