"""What must be known before a number on the page is believed."""

from __future__ import annotations

import msgspec

from edgepress.benchmarks.report.artifacts import Artifact, baseline_of, own
from edgepress.benchmarks.report.contents import Contents
from edgepress.benchmarks.report.numerals import join_words
from edgepress.benchmarks.report.verdict import comparable


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A line, and what it is about."""

    about: str
    text: str


def notes(contents: Contents, artifacts: tuple[Artifact, ...]) -> tuple[Note, ...]:
    """The student's notes, fallbacks, cautions of the measurements, and what was not measured."""
    manifest = contents.manifest
    formats = {tensor.name: tensor.format for tensor in contents.tensors}
    student = [Note(about="student", text=text) for text in manifest.lineage.student_notes]
    fallback = [
        Note(about="fallback", text=f"{name} ships as {formats.get(name, '?')}; no format that was wanted fits it")
        for name in manifest.fell_back
    ]
    return (
        *student,
        *fallback,
        *_stand_ins(artifacts),
        *_cautions(artifacts),
        *_unlike(artifacts),
        *_missing(own(artifacts)),
    )


def _stand_ins(artifacts: tuple[Artifact, ...]) -> list[Note]:
    """Graphs whose own engine was not run."""
    return [
        Note(about=artifact.title, text="measured in ONNX Runtime on the CPU, from the same graph; no engine was run")
        for artifact in artifacts
        if artifact.label == "tensorrt" and artifact.engine == "onnxruntime"
    ]


def _cautions(artifacts: tuple[Artifact, ...]) -> list[Note]:
    """Warnings of the benches; one line for those that several share."""
    titles: dict[str, list[str]] = {}
    for artifact in artifacts:
        for warning in artifact.latency.warnings if artifact.latency else ():
            titles.setdefault(warning, []).append(artifact.title)
    measured = sum(artifact.latency is not None for artifact in artifacts)
    return [
        Note(about="speed" if len(names) == measured else f"speed of {join_words(names)}", text=text)
        for text, names in titles.items()
    ]


def _unlike(artifacts: tuple[Artifact, ...]) -> list[Note]:
    """Speeds that must not be compared."""
    baseline = baseline_of(artifacts)
    if baseline is None or baseline.latency is None:
        return []
    names = [x.title for x in artifacts if x.latency and not comparable(x.latency, baseline.latency)]
    text = "measured with another scenario, other threads or on another processor than the f16 baseline; not compared"
    return [Note(about=f"speed of {join_words(names)}", text=text)] if names else []


def _missing(artifacts: tuple[Artifact, ...]) -> list[Note]:
    """Measurements that some have and others lack."""
    found = []
    for kind, lacking in (
        ("quality", [artifact.title for artifact in artifacts if artifact.quality is None]),
        ("speed", [artifact.title for artifact in artifacts if artifact.latency is None]),
    ):
        if 0 < len(lacking) < len(artifacts):
            found.append(Note(about=kind, text=f"not measured for {join_words(lacking)}"))
    return found
