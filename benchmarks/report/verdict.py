"""The verdict: what the measurements allow to be said, in words, and nothing beyond.

A change of perplexity whose 95 % interval holds zero, and two speeds whose 95 % intervals overlap, are no difference.
Speeds are compared only where the same scenario ran with as many threads on the same processor.
"""

from __future__ import annotations

import msgspec

from edgepress.artifact.manifest import Manifest
from edgepress.benchmarks.records import BenchRecord, QualityRecord
from edgepress.benchmarks.report.artifacts import Artifact, baseline_of, shipped
from edgepress.benchmarks.report.contents import Contents
from edgepress.benchmarks.report.intervals import interval_factor
from edgepress.benchmarks.report.numerals import change, join_words, megabytes, plus_minus, rate, significant, whole

_FEW = 3


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a card: ``value`` in large type, ``details`` below it."""

    name: str
    value: str
    details: tuple[str, ...] = ()


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact at a glance. ``share`` is its size over the fp16 student's."""

    title: str
    engine: str
    colour: str
    size: str
    share: float
    figures: tuple[Figure, ...]


def fp16_bytes(manifest: Manifest) -> int:
    """The size that a reduction is counted from: two bytes for every parameter of the student's shape."""
    return 2 * manifest.parameters


def origin(manifest: Manifest, depth: int) -> str:
    """What the student is, and how it came in."""
    types = sorted(manifest.lineage.student_stored_types.items(), key=lambda item: (-item[1], item[0]))
    stored = join_words([f"{kind} ({count} tensors)" for kind, count in types]) or "unknown types"
    family = manifest.model.get("family", "unknown")
    return f"{whole(manifest.parameters)} parameters, {depth} layers, {family} family; came in stored as {stored}"


def headline(manifest: Manifest, artifacts: tuple[Artifact, ...]) -> str:
    """Before and after, in a sentence."""
    before = f"{megabytes(fp16_bytes(manifest))} of fp16 weights"
    sizes = [f"{megabytes(artifact.file_bytes)} as {artifact.title}" for artifact in shipped(artifacts)]
    return f"{before} are now {join_words(sizes)}." if sizes else f"{before}; no file was exported."


def lead(artifacts: tuple[Artifact, ...]) -> tuple[str, ...]:
    """What that cost and gained, a sentence per shipped artifact; none where a table reads better."""
    found = [sentence for artifact in shipped(artifacts) if (sentence := _sentence(artifact, artifacts))]
    return tuple(found) if len(found) <= _FEW else ()


def _sentence(artifact: Artifact, artifacts: tuple[Artifact, ...]) -> str:
    found = []
    if quality := artifact.quality:
        agreement = significant(100 * quality.top1_agreement)
        found.append(f"agrees with the student on the next token in {agreement} % of positions")
        found.append(_perplexity_words(quality))
    if latency := artifact.latency:
        ratio = speed_ratio(artifact, baseline_of(artifacts))
        speed = f"{rate(latency.decode_tokens_per_s)} tokens/s"
        found.append(f"decodes {speed}, {ratio}" if ratio else f"decodes {speed}")
    return f"{artifact.title} {join_words(found)}." if found else ""


def _perplexity_words(quality: QualityRecord) -> str:
    if abs(quality.ppl_ratio - 1) <= interval_factor(quality) * quality.ppl_ratio_se:
        return f"shows no change of perplexity ({change(quality.ppl_ratio, quality.ppl_ratio_se)})"
    verb = "raises" if quality.ppl_ratio > 1 else "lowers"
    return f"{verb} perplexity by {plus_minus(abs(quality.ppl_ratio - 1), quality.ppl_ratio_se, 100)} %"


def speed_ratio(artifact: Artifact, baseline: Artifact | None) -> str:
    """How an artifact's decoding compares with the baseline's; empty where they cannot be compared."""
    mine, theirs = artifact.latency, baseline.latency if baseline else None
    if mine is None or theirs is None or not comparable(mine, theirs):
        return ""
    if _overlap(mine, theirs):
        return "no difference to the f16 baseline can be shown"
    return f"{significant(mine.decode_tokens_per_s / theirs.decode_tokens_per_s)} × as fast as the f16 baseline"


def comparable(first: BenchRecord, second: BenchRecord) -> bool:
    """Whether two benches did the same work with the same means."""
    same_work = first.scenario == second.scenario and first.n_threads == second.n_threads
    return same_work and first.cpu_info == second.cpu_info


def _overlap(first: BenchRecord, second: BenchRecord) -> bool:
    a, b = first.decode_tokens_per_s_spread, second.decode_tokens_per_s_spread
    if a.low95 is None or a.high95 is None or b.low95 is None or b.high95 is None:
        return True  # one repetition shows nothing
    return a.low95 <= b.high95 and b.low95 <= a.high95


def cards(contents: Contents, artifacts: tuple[Artifact, ...]) -> tuple[Card, ...]:
    """One card per shipped artifact."""
    full, baseline = fp16_bytes(contents.manifest), baseline_of(artifacts)
    return tuple(
        Card(
            title=artifact.title,
            engine=artifact.engine or "not measured",
            colour=artifact.colour,
            size=megabytes(artifact.file_bytes),
            share=artifact.file_bytes / full if full else 0.0,
            figures=_quality_figures(artifact) + _speed_figures(artifact, baseline),
        )
        for artifact in shipped(artifacts)
    )


def _quality_figures(artifact: Artifact) -> tuple[Figure, ...]:
    quality = artifact.quality
    if quality is None:
        return (Figure(name="Quality", value="not measured"),)
    return (
        Figure(
            name="KL divergence",
            value=plus_minus(quality.kld_mean, quality.kld_se),
            details=(f"nats; 99 % below {significant(quality.kld_p99)}",),
        ),
        Figure(
            name="Same next token",
            value=f"{plus_minus(quality.top1_agreement, quality.top1_se, 100)} %",
            details=(f"of {whole(quality.tokens)} positions",),
        ),
        Figure(
            name="Perplexity",
            value=plus_minus(quality.ppl, quality.ppl_se),
            details=(
                f"student {plus_minus(quality.ppl_reference, quality.ppl_reference_se)}",
                f"change {change(quality.ppl_ratio, quality.ppl_ratio_se)}",
            ),
        ),
    )


def _speed_figures(artifact: Artifact, baseline: Artifact | None) -> tuple[Figure, ...]:
    latency = artifact.latency
    if latency is None:
        return (Figure(name="Speed and memory", value="not measured"),)
    peak = baseline.latency.peak_rss_bytes if baseline and baseline.latency else None
    return (
        Figure(
            name="Decode",
            value=f"{rate(latency.decode_tokens_per_s)} tokens/s",
            details=(speed_ratio(artifact, baseline) or f"{latency.n_threads} threads",),
        ),
        Figure(
            name="Peak memory",
            value=megabytes(latency.peak_rss_bytes),
            details=(f"f16 baseline {megabytes(peak)}" if peak else "whole process",),
        ),
    )
