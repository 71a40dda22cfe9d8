"""The files of an encoder's export, and the gate before them.

    model.onnx, model.onnx.data    the graph and its weights
    encoder.json                   inputs, outputs, shapes to build engines for, how far the outputs moved
    tokenizer and preprocessor files, config.json

The gate: the traced graph must answer as torch does, and the shipped file, read back and run in ONNX Runtime, must keep
the direction of every output on calibration inputs that chose no scale.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np

from edgepress.artifact.encoder_layout import ENCODER_FILE, EncoderLayout
from edgepress.errors import InputError, ParityError, require
from edgepress.export.encoder.calibration import read_calibration
from edgepress.export.encoder.half import make_half
from edgepress.export.encoder.model import OnnxModel
from edgepress.export.encoder.observe import Feeds, observe, open_graph
from edgepress.export.encoder.quantize import quantize
from edgepress.export.encoder.trace import Traced, trace

MODEL_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
TRACE_BOUND = 1e-3
COSINE_BOUND = 0.95
_HELD_OUT = 5  # one input in five chooses nothing and judges
_DATA_FROM_BYTES = 1024
_COMPANIONS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
)
Weights = Literal["int8", "float"]
Dtype = Literal["float16", "float32"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


class Fidelity(msgspec.Struct, frozen=True, kw_only=True):
    """How one output moved against float32: cosine (mean, least) and largest difference over the largest value."""

    cosine_mean: float
    cosine_min: float
    relative_max: float


class EncoderExport(EncoderLayout, frozen=True, kw_only=True):
    """What was written: the content of ``encoder.json``. ``fidelity`` is by output name, over ``judged`` inputs."""

    architecture: str
    weights: Weights
    dtype: Dtype
    quantized: tuple[str, ...]
    smoothed: tuple[str, ...]
    calibrated: int
    judged: int
    fidelity: dict[str, Fidelity]


def export_encoder(
    directory: Path,
    out: Path,
    *,
    calibration: Path | None,
    weights: Weights = "int8",
    dtype: Dtype = "float16",
    samples: int = 320,
    batch: int = 32,
) -> EncoderExport:
    """Write an encoder or classifier into an existing, empty directory.

    Args:
        directory: a Hugging Face directory with safetensors.
        out: where the files go.
        calibration: text or .npz; see :func:`read_calibration`. ``weights="float"`` needs none and judges on it only.
        weights: int8 by Q/DQ with static int8 inputs, or as they are.
        dtype: of everything else.
        samples: calibration inputs, one in five of them held out to judge.
        batch: the largest batch that engines are built for.

    Raises:
        InputError: not an encoder, no calibration for int8, or inputs that do not fit.
        ParityError: the graph or the shipped file does not answer as the model does.
    """
    check_calibrated(calibration, weights)
    traced = trace(directory)
    fitted, judged = _inputs(calibration, directory, traced, samples)
    model = OnnxModel(traced.proto)
    with tempfile.TemporaryDirectory(dir=out) as working:
        reference = _save(model.proto, Path(working))
        _check_trace(reference, traced)
        quantized, smoothed = quantize(model, observe(model, fitted, Path(working))) if weights == "int8" else ([], [])
        if dtype == "float16":
            make_half(model)
        _save(model.proto, out)
        fidelity = judge(reference, out / MODEL_FILE, judged) if judged else {}
    _check_fidelity(out, fidelity)
    _copy_companions(directory, out)
    record = EncoderExport(
        architecture=traced.architecture,
        weights=weights,
        dtype=dtype,
        inputs={value.name: _shape(value) for value in model.proto.graph.input},
        outputs=tuple(value.name for value in model.proto.graph.output),
        profiles={"encode": _profile(traced, batch)},
        quantized=tuple(quantized),
        smoothed=tuple(smoothed),
        calibrated=len(fitted),
        judged=len(judged),
        fidelity=fidelity,
    )
    (out / ENCODER_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return record


def check_calibrated(calibration: Path | None, weights: Weights) -> None:
    """Refuse int8 without inputs to choose its scales by.

    Raises:
        InputError: what is missing.
    """
    if calibration is None and weights == "int8":
        raise InputError("int8 inputs need static scales: give --calibration, a text of lines or an .npz of inputs")


def _copy_companions(directory: Path, out: Path) -> None:
    for name in _COMPANIONS:
        if (directory / name).is_file():
            shutil.copyfile(directory / name, out / name)


def _inputs(calibration: Path | None, directory: Path, traced: Traced, samples: int) -> tuple[list[Feeds], list[Feeds]]:
    """Inputs that choose scales, and those that judge; none of either without a calibration."""
    inputs = read_calibration(calibration, directory, traced, samples) if calibration else []
    fitted, judged = split(inputs)
    if calibration and not judged:
        raise InputError(
            f"{calibration}: {len(inputs)} calibration inputs; wanted {_HELD_OUT} or more, one to judge by"
        )
    return fitted, judged


def split(inputs: Sequence[Feeds]) -> tuple[list[Feeds], list[Feeds]]:
    """Inputs that choose scales, and those that judge."""
    judged = [entry for i, entry in enumerate(inputs) if i % _HELD_OUT == _HELD_OUT - 1]
    return [entry for i, entry in enumerate(inputs) if i % _HELD_OUT != _HELD_OUT - 1], judged


def judge(reference: Path, shipped: Path, inputs: Sequence[Feeds]) -> dict[str, Fidelity]:
    """Run both files over the same inputs, in ONNX Runtime on the CPU."""
    first, second = open_graph(reference), open_graph(shipped)
    names = [value.name for value in first.get_outputs()]
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for feeds in inputs:
        for name, a, b in zip(names, first.run(names, feeds), second.run(names, feeds), strict=True):
            x, y = a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64)
            cosine = float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-30))
            pairs[name].append((cosine, float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-30))))
    return {
        name: Fidelity(
            cosine_mean=float(np.mean([cosine for cosine, _ in found])),
            cosine_min=float(np.min([cosine for cosine, _ in found])),
            relative_max=float(np.max([apart for _, apart in found])),
        )
        for name, found in pairs.items()
    }


def _save(proto: Any, directory: Path) -> Path:
    onnx = require("onnx", "onnx")
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    copied.producer_name, copied.producer_version = "edgepress", ""
    path = directory / MODEL_FILE
    options = {"location": DATA_FILE, "size_threshold": _DATA_FROM_BYTES}
    onnx.save_model(copied, str(path), save_as_external_data=True, all_tensors_to_one_file=True, **options)
    if not (directory / DATA_FILE).is_file():
        (directory / DATA_FILE).write_bytes(b"")
    onnx.checker.check_model(str(path), full_check=True)
    return path


def _check_trace(path: Path, traced: Traced) -> None:
    session = open_graph(path)
    names = [value.name for value in session.get_outputs()]
    for name, found in zip(names, session.run(names, traced.sample), strict=True):
        wanted = traced.answers.get(name)
        if wanted is None:
            raise ParityError(f"{traced.architecture}: the traced graph has an output {name!r} that the model has not")
        apart = float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
        if not apart <= TRACE_BOUND:
            raise ParityError(f"{traced.architecture}: {name} differs from torch by {apart:.3g}, bound {TRACE_BOUND:g}")


def _check_fidelity(out: Path, fidelity: dict[str, Fidelity]) -> None:
    for name, found in fidelity.items():
        if not found.cosine_mean >= COSINE_BOUND:
            raise ParityError(
                f"{out}: {name} keeps a mean cosine of {found.cosine_mean:.4f} to float32, bound {COSINE_BOUND:g}; "
                "calibrate on inputs like those in use, or export with --weights float"
            )


def _shape(value: Any) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _profile(traced: Traced, batch: int) -> dict[str, tuple[int, int, int]]:
    profile = {"batch": (1, min(8, batch), batch)}
    if traced.tokens_limit is not None:
        profile["sequence"] = (1, min(128, traced.tokens_limit), traced.tokens_limit)
    return profile
