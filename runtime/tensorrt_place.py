"""What an engine depends on beside its graph: the library, the GPU, the board and its power mode.

An engine is tied to TensorRT's version to the build and to the GPU model, and its kernels were chosen by timing them
under the clocks of the moment. So an engine is kept under a key of all that, and never taken for another place.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from edgepress.artifact.files import sha256_file
from edgepress.artifact.tensorrt_layout import Shapes
from edgepress.errors import InputError
from edgepress.profiles.gpus import find_capability
from edgepress.runtime.cuda_device import Gpu, module_part_number, read_gpu
from edgepress.runtime.environment import read_machine
from edgepress.runtime.tensorrt_builder import Layout, profile_shapes

_KEY_DIGITS = 12


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an engine is built and good for. ``module`` and ``power_mode`` are a Jetson's."""

    builder: str
    version: str
    cuda: str | None
    capability: str
    gpu: str | None
    module: str | None
    power_mode: str | None

    @property
    def digest(self) -> str:
        """Identifies the place: what a timing cache is good for."""
        return _digest(self)


class EngineKey(msgspec.Struct, frozen=True, kw_only=True):
    """All that an engine is made of."""

    place: Place
    graph_sha256: str
    data_sha256: str
    shapes: dict[str, dict[str, Shapes]]
    optimization_level: int
    low_memory: bool

    @property
    def folder(self) -> str:
        """Name of the engine's directory below ``engines/``."""
        return f"{self.place.capability}-{_digest(self)}"


def read_place(trt: Any, target: str | None = None, root: Path = Path("/")) -> Place:
    """The place that engines are built for.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        target: a GPU or compute capability to build for ahead of time, which TensorRT-RTX alone can.
        root: of the file system that is read.

    Raises:
        InputError: no GPU here and no target, or a target that is unknown or that ``trt`` cannot build for.
    """
    gpu = read_gpu()
    if target is not None:
        if not hasattr(trt, "ComputeCapability"):
            raise InputError(f"target {target}: {trt.__name__} builds for the GPU it runs on; leave --target out")
        capability = find_capability(target)[0]
        if not hasattr(trt.ComputeCapability, capability.upper()):
            raise InputError(f"target {target}: {trt.__name__} {trt.__version__} cannot build for it ahead of time")
        return _ahead(trt, capability)
    if gpu is None:
        raise InputError(
            f"no NVIDIA GPU or driver here: run this on the board, or name a GPU to build for ahead of time with "
            f"--target ({trt.__name__} is installed)"
        )
    jetson = read_machine(root).jetson
    return Place(
        builder=trt.__name__,
        version=str(trt.__version__),
        cuda=gpu.cuda,
        capability=gpu.capability,
        gpu=gpu.name,
        module=module_part_number(root),
        power_mode=jetson.power_mode if jetson else None,
    )


def engine_key(directory: Path, layout: Layout, place: Place, *, level: int, low_memory: bool) -> EngineKey:
    """The key of an exported directory's engine; reads the graph and its weights once."""
    return EngineKey(
        place=place,
        graph_sha256=sha256_file(directory / "model.onnx"),
        data_sha256=sha256_file(directory / "model.onnx.data"),
        shapes=profile_shapes(layout),
        optimization_level=level,
        low_memory=low_memory,
    )


def why_not_here(place: Place, gpu: Gpu | None, version: str) -> str | None:
    """Why an engine made for a place cannot run on a GPU with this version of the library; None when it can."""
    if gpu is None:
        return "no NVIDIA GPU or driver here"
    if place.version != version and place.builder == "tensorrt":
        return f"it was built by TensorRT {place.version}, here is {version}"
    if place.capability != gpu.capability:
        return f"it was built for {place.capability}, here is {gpu.name} ({gpu.capability})"
    if place.gpu is not None and place.gpu != gpu.name:
        return f"it was built on {place.gpu}, here is {gpu.name}"
    return None


def _ahead(trt: Any, target: str) -> Place:
    return Place(
        builder=trt.__name__,
        version=str(trt.__version__),
        cuda=None,
        capability=target,
        gpu=None,
        module=None,
        power_mode=None,
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:_KEY_DIGITS]
