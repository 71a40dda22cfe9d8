"""Which tensors the divergence comes from, in words."""

from __future__ import annotations

import msgspec

from edgepress.benchmarks.report.artifacts import Artifact, shipped
from edgepress.benchmarks.report.contents import Attribution
from edgepress.benchmarks.report.numerals import join_words, plus_minus, significant, whole

_COSTLIEST = 3


class CostlyTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor and what it costs; ``share`` is of the sum over all tensors."""

    name: str
    kld: str
    share: str
    format: str


class ByTensor(msgspec.Struct, frozen=True, kw_only=True):
    """``costliest`` first; ``roles`` and ``sums`` are sentences."""

    costliest: tuple[CostlyTensor, ...]
    roles: str
    sums: str


def by_tensor(attribution: Attribution | None, artifacts: tuple[Artifact, ...]) -> ByTensor | None:
    """None where nothing was measured, or nothing lost."""
    if attribution is None or not any(tensor.kld > 0 for tensor in attribution.tensors):
        return None
    total = sum(tensor.kld for tensor in attribution.tensors)
    ranked = sorted(attribution.tensors, key=lambda tensor: (-tensor.kld, tensor.name))[:_COSTLIEST]
    return ByTensor(
        costliest=tuple(
            CostlyTensor(
                name=tensor.name,
                kld=significant(tensor.kld),
                share=f"{100 * tensor.kld / total:.1f} %",
                format=tensor.format,
            )
            for tensor in ranked
            if tensor.kld > 0
        ),
        roles=_roles(attribution.roles),
        sums=_sums(attribution, total, artifacts),
    )


def _roles(roles: dict[str, float]) -> str:
    ranked = sorted(roles.items(), key=lambda item: (-item[1], item[0]))
    return f"Each role alone, in nats: {join_words([f'{role} {significant(kld)}' for role, kld in ranked])}."


def _sums(attribution: Attribution, total: float, artifacts: tuple[Artifact, ...]) -> str:
    """The sum beside what was measured of everything at once, in torch and in the files."""
    files = [
        f"{artifact.title} {plus_minus(artifact.quality.kld_mean, artifact.quality.kld_se)} "
        f"on {whole(artifact.quality.tokens)} positions"
        for artifact in shipped(artifacts)
        if artifact.quality
    ]
    measured = f"; the files, in their engines: {join_words(files)}" if files else ""
    return (
        f"All tensors sum to {significant(total)} nats. Together they cost {significant(attribution.together_kld)} "
        f"on the same {whole(attribution.tokens)} tokens{measured}."
    )
