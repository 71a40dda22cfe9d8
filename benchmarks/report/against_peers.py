"""Our GGUF file against those that llama.cpp quantized itself: how much less it loses at how many bytes, and what is in
each of theirs.

Both were scored on the same windows, so the error of the ratio R = mean(a) / mean(b) comes from the pairs a - R b: what
makes a window hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgepress.benchmarks.records import QualityRecord
from edgepress.benchmarks.report.artifacts import Artifact, peers, shipped
from edgepress.benchmarks.report.contents import Contents
from edgepress.benchmarks.report.intervals import interval_factor
from edgepress.benchmarks.report.numerals import join_words, plus_minus
from edgepress.benchmarks.statistics import Estimate, clustered_mean


def lead(artifacts: tuple[Artifact, ...]) -> tuple[str, ...]:
    """A sentence per pair of files of the same engine; none where nothing can be paired."""
    pairs = [(artifact, peer) for artifact in shipped(artifacts) for peer in peers(artifacts)]
    return tuple(sentence for artifact, peer in pairs if (sentence := _sentence(artifact, peer)))


def _sentence(artifact: Artifact, peer: Artifact) -> str:
    ours, theirs = artifact.quality, peer.quality
    if ours is None or theirs is None or not _paired(ours, theirs):
        return ""
    ratio, error = divergence_ratio(ours, theirs)
    factor, size = f"{plus_minus(ratio, error)} ×", f"{artifact.file_bytes / peer.file_bytes:.2f} × its bytes"
    if abs(ratio - 1) <= interval_factor(ours) * error:
        return f"{artifact.title}'s divergence cannot be told from that of {peer.title} ({factor}), in {size}."
    return f"{artifact.title} has {factor} the divergence of {peer.title}, in {size}."


def _paired(ours: QualityRecord, theirs: QualityRecord) -> bool:
    same = ours.engine == theirs.engine and ours.windows_sha256 == theirs.windows_sha256
    return same and ours.windows > 1 and theirs.kld_mean > 0


def divergence_ratio(ours: QualityRecord, theirs: QualityRecord) -> Estimate:
    """Our mean divergence over theirs, and its standard error, from windows of equal length."""
    first, second = np.array(ours.window_kld), np.array(theirs.window_kld)
    ratio = float(first.mean() / second.mean())
    error = clustered_mean((first - ratio * second)[:, None]).se / float(second.mean())
    return Estimate(ratio, error)


def contents_words(contents: Contents, artifacts: tuple[Artifact, ...]) -> str:
    """How llama.cpp's own files were made, and what they hold; empty where none was measured."""
    theirs = [(peer.title, contents.peer_types.get(peer.label, {})) for peer in peers(artifacts)]
    if not theirs:
        return ""
    matrix = "with an importance matrix of" if contents.manifest.lineage.calibration_digest else "without"
    held = [f"{title} holds {_counts(types)}" for title, types in theirs if types]
    made = f"llama.cpp's own files are what llama-quantize makes of the same student, {matrix} calibration text."
    mixed = "Its names stand for mixtures, and where a type does not fit it puts another"
    return f"{made} {mixed}: {'; '.join(held)}." if held else made


def _counts(types: Mapping[str, int]) -> str:
    return join_words([f"{count} {kind}" for kind, count in types.items()])
