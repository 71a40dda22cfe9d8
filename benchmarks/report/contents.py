"""What an output directory holds for the report, read and checked; nothing is derived here.

Only the manifest must be there. A measurement that is missing is absent from the page, one that is damaged is an error:
a page that silently left it out would look like one where it was never taken.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TypeVar

import msgspec

from edgepress.artifact.gguf_header import read_gguf_header
from edgepress.artifact.manifest import Manifest, read_manifest
from edgepress.artifact.plan import TensorPlan
from edgepress.benchmarks.records import BenchRecord, QualityRecord
from edgepress.benchmarks.report.peer_labels import PEER, peer_label
from edgepress.benchmarks.shape_record import SHAPE_FILE, ShapeRecord
from edgepress.errors import InputError

Record = TypeVar("Record")


class TensorError(msgspec.Struct, frozen=True, kw_only=True):
    """What quantization did to one tensor, as ``compress`` records it: ‖W - Ŵ‖² / ‖W‖², weighted by what calibration
    told of its inputs where ``weighted``.
    """

    name: str
    format: str
    relative_error: float
    weighted: bool


class TokenTime(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted milliseconds per decoded token in the matrices, where a recipe bounds them: of the formats that were
    chosen, and of those that would have been without the bound.
    """

    target_ms: float
    chosen_ms: float
    unbounded_ms: float


class FrontierPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The least divergence that the search predicts for a file of that many bytes."""

    file_bytes: int
    predicted_kld: float


class FormatSearch(msgspec.Struct, frozen=True, kw_only=True):
    """What a search for formats found, as ``compress`` records it: divergences in nats per token on calibration text,
    of the formats that were chosen and of random ones of the same bytes, all before the final solve. The matrices take
    ``used_bytes`` of the file, the rest ``other_bytes``. With a bound on the divergence also that of the solved model.
    """

    used_bytes: int
    predicted_kld: float
    tried_kld: float
    random_kld: tuple[float, ...]
    time: TokenTime | None = None
    other_bytes: int = 0
    frontier: tuple[FrontierPoint, ...] = ()
    solved_kld: float | None = None
    max_kld: float | None = None


class TensorLoss(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix's part of the divergence, in nats per token."""

    name: str
    format: str
    kld: float


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """Where the checkpoint's divergence comes from, on ``tokens`` tokens of the evaluation text: by tensor; of each
    role alone, which its tensors sum to; and of all together.
    """

    tokens: int
    roles: dict[str, float]
    together_kld: float
    tensors: tuple[TensorLoss, ...]


class Distillation(msgspec.Struct, frozen=True, kw_only=True):
    """Training through the grids: tokens, and the held-out divergence by tokens seen, the start first."""

    tokens: int
    held_out: tuple[tuple[int, float], ...]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and the answers to it, by label; ``student`` is the reference."""

    prompt: str
    answers: dict[str, str]


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """Greedy answers of at most ``tokens`` tokens."""

    tokens: int
    samples: tuple[Sample, ...]


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the page is made from; measurements by label. ``errors`` is empty where nothing was quantized.

    ``peer_types`` counts the matrices of each measured file that llama.cpp quantized, by label and ggml's type.
    """

    manifest: Manifest
    tensors: tuple[TensorPlan, ...]
    quality: dict[str, QualityRecord]
    latency: dict[str, BenchRecord]
    samples: Samples | None
    errors: tuple[TensorError, ...]
    search: FormatSearch | None = None
    peer_types: dict[str, dict[str, int]] = {}
    attribution: Attribution | None = None
    distillation: Distillation | None = None
    shape: ShapeRecord | None = None


def read_contents(out: Path) -> Contents:
    """Read an output directory.

    Raises:
        InputError: no manifest, or a file that is damaged; names the file.
    """
    manifest, folder = read_manifest(out), out / "measurements"
    samples, errors = folder / "samples.json", out / "checkpoint" / "quantization.json"
    search, attribution = out / "checkpoint" / "allocation.json", folder / "tensors.json"
    distillation = out / "checkpoint" / "distillation.json"
    shape = folder / SHAPE_FILE
    quality = _labelled(folder, "quality", QualityRecord)
    return Contents(
        manifest=manifest,
        tensors=_tensors(manifest, out),
        quality=quality,
        latency=_labelled(folder, "latency", BenchRecord),
        samples=_read(samples, Samples) if samples.is_file() else None,
        errors=_read(errors, tuple[TensorError, ...]) if errors.is_file() else (),
        search=_read(search, FormatSearch) if search.is_file() else None,
        attribution=_read(attribution, Attribution) if attribution.is_file() else None,
        distillation=_read(distillation, Distillation) if distillation.is_file() else None,
        shape=_read(shape, ShapeRecord) if shape.is_file() else None,
        peer_types={
            peer_label(path.stem): _matrix_types(path)
            for path in sorted((out / PEER).glob("*.gguf"))
            if peer_label(path.stem) in quality
        },
    )


def _matrix_types(path: Path) -> dict[str, int]:
    """How many matrices of a file have each type, the most frequent first."""
    return dict(
        Counter(tensor.type for tensor in read_gguf_header(path).tensors if len(tensor.shape) > 1).most_common()
    )


def _tensors(manifest: Manifest, out: Path) -> tuple[TensorPlan, ...]:
    try:
        return msgspec.convert(manifest.tensors, tuple[TensorPlan, ...])
    except msgspec.ValidationError as error:
        raise InputError(f"{out / 'manifest.json'}: its list of tensors is damaged ({error})") from error


def _labelled(folder: Path, kind: str, record: type[Record]) -> dict[str, Record]:
    """``<kind>-<label>.json`` by label, sorted."""
    found = sorted(folder.glob(f"{kind}-*.json"))
    return {path.stem.removeprefix(f"{kind}-"): _read(path, record) for path in found}


def _read(path: Path, kind: type[Record]) -> Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a measurement that this version can read ({error}); remove the file and measure again"
        ) from error
