"""Engines for desktop GPUs, built ahead of time by TensorRT-RTX on a machine that needs no GPU.

    engines/<smNN>/model.engine     one per compute capability
    engines/<smNN>/engine.json      what it was made of and by

TensorRT-RTX compiles the kernels on the GPU when an engine first runs, and can keep them: ``engine.json`` names the
file for that runtime cache, which is good for the same compute capability and for this or a later version. Nothing
built here has been run: a build shows that TensorRT accepts the graph, not how fast it is.

Source: TensorRT-RTX documentation, "CPU-Only AOT and TensorRT-RTX Engines", "Working with Runtime Cache".
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from edgepress.artifact.files import atomic_directory, sha256_file
from edgepress.artifact.plan import ModelPlan
from edgepress.artifact.tensorrt_layout import Profiles, read_layout
from edgepress.errors import InputError, require
from edgepress.export.onnx.genai import MODEL_FILE
from edgepress.export.onnx.proto import DATA_FILE
from edgepress.export.tensorrt.writer import tensorrt_layout
from edgepress.profiles.gpus import find_capability
from edgepress.progress import say
from edgepress.runtime.tensorrt_builder import serialized_engine

ENGINES_FOLDER = "engines"
ENGINE_FILE = "model.engine"
RECORD_FILE = "engine.json"
RUNTIME_CACHE_FILE = "model.cache"

_FORMATS = {"int4": "4-bit formats", "float32": "f32 matrices", "int8": "int8", "float8": "fp8", "float16": "f16"}


class RuntimeCachePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Where the kernels compiled on the GPU are kept, beside the engine, and what they are good for."""

    file: str = RUNTIME_CACHE_FILE
    compute_capability: str
    version_at_least: str


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``engine.json``."""

    format_version: int = 2
    builder: str = "tensorrt_rtx"
    version: str
    compute_capability: str
    graph_sha256: str
    data_sha256: str
    profiles: Profiles
    engine_sha256: str
    engine_bytes: int
    build_seconds: float
    runtime_cache: RuntimeCachePlan


def resolve_targets(names: list[str]) -> tuple[str, ...]:
    """GPU names and compute capabilities → compute capabilities to build for, each once.

    Raises:
        InputError: an unknown name, or a GPU whose engines cannot be built ahead of time.
    """
    found: dict[str, None] = {}
    for name in (part for entry in names for part in entry.split(",") if part.strip()):
        capability, can = find_capability(name)
        if can.build == "board":
            raise InputError(
                f"target {name}: engines for {capability} are built on the device itself; export without --target, "
                f"copy the folder there and run: edgepress engine build"
            )
        if can.build == "none":
            raise InputError(f"target {name}: TensorRT 10, which these graphs need, does not support {capability}")
        found[capability] = None
    if not found:
        raise InputError("--target names no GPU; give one, such as rtx-4090 or sm86, or leave it out")
    return tuple(found)


def check_targets(plan: ModelPlan, capabilities: tuple[str, ...]) -> None:
    """Refuse number types that a GPU does not have, before anything is written.

    Raises:
        InputError: which type, on which GPU; or TensorRT-RTX is not installed.
    """
    types = tensorrt_layout(plan).number_types
    for capability in capabilities:
        held = find_capability(capability)[1].number_types
        for wanted in types:
            if wanted not in held:
                raise InputError(
                    f"target {capability}: TensorRT cannot compute with {_FORMATS[wanted]} there; it has "
                    f"{', '.join(_FORMATS[each] for each in held)}"
                )
    if capabilities:
        require("tensorrt_rtx", "tensorrt-rtx")


def build_engine(directory: Path, capability: str) -> EngineRecord:
    """Build the engine of an exported directory for a compute capability, ``smNN``, below ``engines/``.

    One that is there whole, of the same graph and version, is kept.

    Raises:
        EdgepressError: TensorRT-RTX cannot read or build the graph; with its own reason.
    """
    trt: Any = require("tensorrt_rtx", "tensorrt-rtx")

    def configure(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability.upper()), 0)

    layout = read_layout(directory).settled("tensorrt_rtx")
    assert layout.profiles is not None
    folder = directory / ENGINES_FOLDER / capability
    sources: dict[str, Any] = {
        "graph_sha256": sha256_file(directory / MODEL_FILE),
        "data_sha256": sha256_file(directory / DATA_FILE),
    }
    kept = _kept(folder, {**sources, "version": trt.__version__, "profiles": layout.profiles})
    if kept is not None:
        say(f"engine for {capability}: up to date")
        return kept
    say(f"engine for {capability}: TensorRT-RTX {trt.__version__} is building it")
    start = time.perf_counter()
    engine = serialized_engine(trt, directory / MODEL_FILE, layout, configure)
    seconds = time.perf_counter() - start
    facts = {**sources, "version": trt.__version__, "profiles": layout.profiles, "build_seconds": round(seconds, 3)}
    record = _write(folder, engine, capability, facts)
    say(f"engine for {capability}: {record.engine_bytes} bytes in {seconds:.1f} s; not run, no GPU was asked for")
    return record


def _write(folder: Path, engine: Any, capability: str, facts: dict[str, Any]) -> EngineRecord:
    """An engine and its record, both or neither."""
    with atomic_directory(folder) as working:
        (working / ENGINE_FILE).write_bytes(engine)
        record = EngineRecord(
            **facts,
            compute_capability=capability,
            engine_sha256=sha256_file(working / ENGINE_FILE),
            engine_bytes=(working / ENGINE_FILE).stat().st_size,
            runtime_cache=RuntimeCachePlan(compute_capability=capability, version_at_least=facts["version"]),
        )
        (working / RECORD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return record


def _kept(folder: Path, wanted: dict[str, str]) -> EngineRecord | None:
    """The record of a whole engine that was made of what is wanted; None where there is none."""
    try:
        record = msgspec.json.decode((folder / RECORD_FILE).read_bytes(), type=EngineRecord)
        whole = sha256_file(folder / ENGINE_FILE) == record.engine_sha256
    except (OSError, msgspec.MsgspecError):
        return None
    return record if whole and all(getattr(record, name) == value for name, value in wanted.items()) else None
