"""Artifacts: what the page compares; each has a label, measurements, a name and a colour that it keeps."""

from __future__ import annotations

import msgspec

from edgepress.artifact.manifest import Manifest
from edgepress.benchmarks.records import BenchRecord, QualityRecord
from edgepress.benchmarks.report.contents import Contents
from edgepress.benchmarks.report.peer_labels import is_peer, peer_title

BASELINE = "baseline"
STUDENT = "student"
# A directory that ships no model of its own engine: the checkpoint is what the others are made from.
_NOT_SHIPPED = frozenset({"checkpoint"})
_MODEL_FILES = (".gguf", ".onnx", ".onnx.data", ".engine")
_TITLES = {"gguf": "GGUF", "onnx": "ONNX", "tensorrt": "TensorRT", BASELINE: "f16 baseline", STUDENT: "Student"}
_FIRST = ("gguf", "onnx", "tensorrt")
# Middle tones, readable on white and on near-black; grey is for what was not made here.
_COLOURS = ("#3d82e0", "#d68a1e", "#2fa084", "#9a6fd0", "#cf5c78", "#7d9c2b")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "hexagon", "cross")
_GREY = "#8a929c"


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A label with its measurements. ``listed_bytes`` counts its model files in the manifest, None where none ships."""

    label: str
    title: str
    colour: str
    symbol: str
    quality: QualityRecord | None
    latency: BenchRecord | None
    listed_bytes: int | None

    @property
    def is_baseline(self) -> bool:
        """Whether this is the student itself."""
        return self.label == BASELINE

    @property
    def is_peer(self) -> bool:
        """Whether llama.cpp quantized this."""
        return is_peer(self.label)

    @property
    def engine(self) -> str:
        """Name of the engine that it was measured in; empty when it was not."""
        record = self.quality or self.latency
        return record.engine if record else ""

    @property
    def file_bytes(self) -> int:
        """Bytes of the model's own files, as measured or else as listed."""
        record = self.quality or self.latency
        return record.file_bytes if record else self.listed_bytes or 0


def list_artifacts(contents: Contents) -> tuple[Artifact, ...]:
    """All labels: shipped formats in a fixed order, then others by name, llama.cpp's own, the baseline last."""
    listed = _listed_bytes(contents.manifest)
    labels = sorted({*contents.quality, *contents.latency, *listed}, key=_rank)
    return tuple(
        Artifact(
            label=label,
            title=title_of(label),
            colour=_colour(label, place),
            symbol=_symbol(label, place),
            quality=contents.quality.get(label),
            latency=contents.latency.get(label),
            listed_bytes=listed.get(label),
        )
        for place, label in enumerate(labels)
    )


def _listed_bytes(manifest: Manifest) -> dict[str, int]:
    """Bytes of the model's files in each shipped directory; tokenizer and settings lie beside them."""
    found: dict[str, int] = {}
    for file in manifest.files:
        folder = file.path.partition("/")[0]
        if folder not in _NOT_SHIPPED and file.path.endswith(_MODEL_FILES):
            found[folder] = found.get(folder, 0) + file.bytes
    return found


def title_of(label: str) -> str:
    """How a label is written on the page."""
    return peer_title(label) if is_peer(label) else _TITLES.get(label, label)


def baseline_of(artifacts: tuple[Artifact, ...]) -> Artifact | None:
    """The student itself in a file, when it was measured."""
    return next((artifact for artifact in artifacts if artifact.is_baseline), None)


def shipped(artifacts: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
    """All but the baseline and llama.cpp's own."""
    return tuple(artifact for artifact in artifacts if not artifact.is_baseline and not artifact.is_peer)


def own(artifacts: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
    """All but llama.cpp's own."""
    return tuple(artifact for artifact in artifacts if not artifact.is_peer)


def peers(artifacts: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
    """The files that llama.cpp quantized."""
    return tuple(artifact for artifact in artifacts if artifact.is_peer)


def _colour(label: str, place: int) -> str:
    return _GREY if label == BASELINE or is_peer(label) else _COLOURS[place % len(_COLOURS)]


def _symbol(label: str, place: int) -> str:
    if is_peer(label):
        return "x"
    return "circle-open" if label == BASELINE else _SYMBOLS[place % len(_SYMBOLS)]


def _rank(label: str) -> tuple[bool, bool, int, str]:
    return label == BASELINE, is_peer(label), _FIRST.index(label) if label in _FIRST else len(_FIRST), label
