"""Building an engine where it will run, within the memory that is free there; an engine that fits is not built again.

    engines/<smNN-key>/model.engine, engine.json     the key: see :mod:`edgepress.runtime.tensorrt_place`
    engines/timing/<place>.cache                     timings of kernels, which shorten the next build on this board

TensorRT holds the graph's weights and the engine while it builds, so both are taken off what is free before the
builder's workspace gets the rest.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import msgspec

from edgepress.artifact.encoder_layout import is_encoder, read_encoder_layout
from edgepress.artifact.files import atomic_directory, sha256_file, sole_writer, write_atomically
from edgepress.artifact.tensorrt_layout import Profiles, TensorrtLayout, is_tensorrt, read_layout
from edgepress.errors import EdgepressError, InputError, require
from edgepress.profiles.gpus import find_capability, known_capabilities
from edgepress.progress import say
from edgepress.runtime.cuda_device import free_gpu_bytes, read_gpu
from edgepress.runtime.tensorrt_builder import Layout, settled, write_engine
from edgepress.runtime.tensorrt_engines import ENGINE_FILE, ENGINES_FOLDER, RECORD_FILE
from edgepress.runtime.tensorrt_place import EngineKey, Place, engine_key, read_place

GRAPH_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
DEFAULT_LEVEL, LOW_MEMORY_LEVEL = 3, 2

_LIBRARY_BYTES = 600 << 20  # CUDA context, kernels and TensorRT's own, as Jetson boards show
_LEAST_WORKSPACE = 64 << 20


class BoardEngine(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``engine.json``. ``profiles`` is a decoder's."""

    format_version: int = 3
    key: EngineKey
    profiles: Profiles | None
    engine_sha256: str
    engine_bytes: int
    build_seconds: float
    workspace_bytes: int


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """An engine, and whether it was there already."""

    path: Path
    reused: bool
    record: BoardEngine


def load_library(name: str | None) -> Any:
    """``tensorrt`` or ``tensorrt_rtx``; without a name the first that is installed.

    Raises:
        MissingExtraError: it is not installed.
    """
    if name == "tensorrt_rtx":
        return require("tensorrt_rtx", "tensorrt-rtx")
    if name is None:
        try:
            return require("tensorrt", "tensorrt")
        except InputError:
            try:
                return require("tensorrt_rtx", "tensorrt-rtx")
            except InputError:
                pass
    if name not in (None, "tensorrt"):
        raise InputError(f"unknown library {name!r}; known: tensorrt, tensorrt_rtx")
    return require("tensorrt", "tensorrt")


def read_any_layout(directory: Path) -> Layout:
    """The layout of an exported decoder or encoder.

    Raises:
        InputError: neither is there, or the graph or its weights are missing.
    """
    if not is_tensorrt(directory) and not is_encoder(directory):
        raise InputError(f"{directory}: no TensorRT export here (tensorrt.json or encoder.json)")
    for name in (GRAPH_FILE, DATA_FILE):
        if not (directory / name).is_file():
            raise InputError(f"{directory}: {name} is missing; copy the whole export")
    return read_layout(directory) if is_tensorrt(directory) else read_encoder_layout(directory)


def build_here(
    directory: Path,
    *,
    library: str | None = None,
    target: str | None = None,
    profiles: Profiles | None = None,
    level: int | None = None,
    low_memory: bool = False,
    workspace_bytes: int | None = None,
) -> Built:
    """Build the engine of an exported directory, or find it.

    Args:
        directory: with ``model.onnx`` and its layout.
        library: ``tensorrt`` or ``tensorrt_rtx``; None takes the first that is installed.
        target: a GPU to build for ahead of time, like ``rtx-4090`` or ``sm86`` (``tensorrt_rtx`` alone).
        profiles: of a decoder's engine, one or two; None takes what the export says, else what suits the library.
        level: TensorRT's optimization level, 0 to 5; higher builds longer.
        low_memory: fewer kernels tried, no library tactics, one stream.
        workspace_bytes: for the builder; None takes what is free.

    Raises:
        InputError: not an export, no GPU, too little memory, or a missing library.
        EdgepressError: TensorRT cannot build it.
    """
    layout = read_any_layout(directory)
    trt = load_library(library)
    place, layout = read_place(trt, target), settled(layout, trt.__name__, profiles)
    check_number_types(layout, place.capability)
    chosen = level if level is not None else LOW_MEMORY_LEVEL if low_memory else DEFAULT_LEVEL
    key = engine_key(directory, layout, place, level=chosen, low_memory=low_memory)
    folder = directory / ENGINES_FOLDER / key.folder
    found = find_built(folder, key)
    if found is not None:
        return Built(path=folder / ENGINE_FILE, reused=True, record=found)
    free = free_gpu_bytes(read_gpu())
    workspace = workspace_bytes or workspace_limit((directory / DATA_FILE).stat().st_size, free, directory)
    timing = directory / ENGINES_FOLDER / "timing" / f"{place.digest}.cache"
    settings = _Settings(trt, place, chosen, low_memory, workspace, timing)
    record = _build(trt, directory, layout, key, settings)
    return Built(path=folder / ENGINE_FILE, reused=False, record=record)


def _build(trt: Any, directory: Path, layout: Layout, key: EngineKey, settings: _Settings) -> BoardEngine:
    engines, place = directory / ENGINES_FOLDER, key.place
    engines.mkdir(exist_ok=True)
    say(f"{place.builder} {place.version}: building for {place.gpu or place.capability}, which can take minutes")
    with sole_writer(engines, engines / ".lock"), atomic_directory(engines / key.folder) as working:
        start = time.perf_counter()
        write_engine(trt, directory / GRAPH_FILE, layout, settings.apply, working / ENGINE_FILE)
        seconds = time.perf_counter() - start
        record = BoardEngine(
            key=key,
            profiles=layout.profiles if isinstance(layout, TensorrtLayout) else None,
            engine_sha256=sha256_file(working / ENGINE_FILE),
            engine_bytes=(working / ENGINE_FILE).stat().st_size,
            build_seconds=round(seconds, 3),
            workspace_bytes=settings.workspace_bytes,
        )
        (working / RECORD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    settings.keep_timings()
    return record


def check_number_types(layout: Layout, capability: str) -> None:
    """Refuse a decoder whose weights a GPU cannot compute with; a GPU that is not in the table is left to TensorRT.

    Raises:
        InputError: which type, and what the GPU has.
    """
    if not isinstance(layout, TensorrtLayout) or capability not in known_capabilities():
        return
    held = find_capability(capability)[1].number_types
    for wanted in layout.number_types:
        if wanted not in held:
            raise InputError(
                f"TensorRT cannot compute with {wanted} weights on {capability}; it has {', '.join(held)}: "
                "export with another format"
            )


def find_built(folder: Path, key: EngineKey | None = None) -> BoardEngine | None:
    """The record of a whole engine in a folder; None when there is none, it is damaged, or it has another key."""
    try:
        record = msgspec.json.decode((folder / RECORD_FILE).read_bytes(), type=BoardEngine)
        whole = (folder / ENGINE_FILE).stat().st_size == record.engine_bytes
    except (OSError, msgspec.MsgspecError):
        return None
    return record if whole and key in (None, record.key) else None


def workspace_limit(weights_bytes: int, free_bytes: int | None, directory: Path) -> int:
    """Bytes that the builder's workspace may take of what is free.

    Raises:
        InputError: too little; says how much is needed.
    """
    held = 2 * weights_bytes + _LIBRARY_BYTES
    if free_bytes is None:
        return weights_bytes + _LEAST_WORKSPACE
    if free_bytes < held + _LEAST_WORKSPACE:
        raise InputError(
            f"{directory}: building needs about {(held + _LEAST_WORKSPACE) >> 20} MiB of memory, "
            f"{free_bytes >> 20} MiB are free; stop other programs (the desktop: sudo init 3), or use a smaller format"
        )
    return free_bytes - held


class _Settings:
    """What a build is told, and the timing cache that it leaves."""

    def __init__(self, trt: Any, place: Place, level: int, low_memory: bool, workspace: int, timing: Path) -> None:
        self._trt, self._place, self._level, self._low_memory = trt, place, level, low_memory
        self.workspace_bytes, self._timing = workspace, timing
        self._cache: Any = None
        self._config: Any = None

    def apply(self, config: Any) -> None:
        trt, self._config = self._trt, config  # which keeps the logger alive that the timing cache writes to
        if self._place.gpu is None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, self._place.capability.upper()), 0)
        config.builder_optimization_level = self._level
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace_bytes)
        if self._low_memory:
            config.max_aux_streams = 0
            config.set_tactic_sources(0)
        if self._place.builder == "tensorrt":  # TensorRT-RTX times nothing when it builds
            self._cache = attach_timings(config, self._timing)

    def keep_timings(self) -> None:
        if self._cache is not None:
            write_atomically(self._timing, serialized_timings(self._cache))


def attach_timings(config: Any, path: Path) -> Any:
    """Give a configuration the timings of earlier builds; those of another version are refused by TensorRT itself, and
    then the build starts with none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        stored = path.read_bytes() if path.is_file() else b""
        cache = config.create_timing_cache(stored)
        if cache is None or not config.set_timing_cache(cache, False):
            cache = config.create_timing_cache(b"")
            if cache is None or not config.set_timing_cache(cache, False):
                raise EdgepressError(f"{path}: TensorRT takes no timing cache")
    return cache


def serialized_timings(cache: Any) -> bytes:
    """A timing cache's bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return bytes(memoryview(cache.serialize()))
