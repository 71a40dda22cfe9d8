"""From a path that a user gives to the model in it and a session over that model.

A path may be a run's output (``gguf/``, ``onnx/``, ``tensorrt/`` and ``checkpoint/`` inside), one of those
directories, or a file. A graph for TensorRT opens in ONNX Runtime, on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import msgspec

from edgepress.artifact.checkpoint import Checkpoint, is_checkpoint
from edgepress.artifact.files import tree_bytes
from edgepress.artifact.tensorrt_layout import is_tensorrt
from edgepress.errors import InputError
from edgepress.runtime.cuda_device import read_gpu
from edgepress.runtime.session import Session
from edgepress.runtime.tensorrt_engines import find_engines

Engine = Literal["llama.cpp", "onnxruntime", "torch", "tensorrt"]
ALL_ENGINES: tuple[Engine, ...] = get_args(Engine)
ENGINES = ALL_ENGINES[:3]  # those that run on any processor


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model that an engine can open. ``path`` is a .gguf file, or the directory of an ONNX or TensorRT export or a
    checkpoint.
    """

    engine: Engine
    path: Path

    @property
    def stands_in(self) -> bool:
        """Whether ONNX Runtime computes a graph that is for TensorRT."""
        return self.engine == "onnxruntime" and is_tensorrt(self.path)

    @property
    def file_bytes(self) -> int:
        """Bytes of the model's own files: the .gguf, or the .onnx with its data, the engine built last, or the
        checkpoint's weights.
        """
        if self.engine == "llama.cpp":
            return self.path.stat().st_size
        if self.engine == "tensorrt":
            return find_engines(self.path)[0].file.stat().st_size
        pattern = "*.onnx*" if self.engine == "onnxruntime" else "model*.safetensors"
        return sum(tree_bytes(file) for file in self.path.glob(pattern))


def find_models(path: Path) -> list[ModelFile]:
    """All models at a path, GGUF first, the torch checkpoint last.

    Raises:
        InputError: the path does not exist or holds no model.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or directory")
    found: list[ModelFile] = []
    if path.is_file() and path.suffix == ".gguf":
        found.append(ModelFile(engine="llama.cpp", path=path))
    for directory in (path, path / "gguf") if path.is_dir() else ():
        found += [ModelFile(engine="llama.cpp", path=file) for file in sorted(directory.glob("*.gguf"))]
    for directory in (path, path / "onnx"):
        if (directory / "genai_config.json").is_file():
            found.append(ModelFile(engine="onnxruntime", path=directory))
    for directory in (path, path / "tensorrt"):
        if is_tensorrt(directory):
            found += _tensorrt(directory)
    for directory in (path, path / "checkpoint"):
        if is_checkpoint(directory):
            found.append(ModelFile(engine="torch", path=directory))
    if not found:
        raise InputError(
            f"{path}: no .gguf file, ONNX directory (genai_config.json or tensorrt.json) or checkpoint here"
        )
    return found


def _tensorrt(directory: Path) -> list[ModelFile]:
    """The engine first where there is a GPU; ONNX Runtime on the processor computes the same graph."""
    on_processor = ModelFile(engine="onnxruntime", path=directory)
    if not find_engines(directory):
        return [on_processor]
    on_gpu = ModelFile(engine="tensorrt", path=directory)
    return [on_gpu, on_processor] if read_gpu() is not None else [on_processor, on_gpu]


def choose_model(path: Path, engine: str | None = None) -> ModelFile:
    """The model at a path for an engine, or the first of :func:`find_models`.

    Raises:
        InputError: no model there for that engine; says which engines have one.
    """
    if engine is not None and engine not in ALL_ENGINES:
        raise InputError(f"unknown engine {engine!r}; known engines: {', '.join(ALL_ENGINES)}")
    found = find_models(path)
    for model in found:
        if engine in (None, model.engine):
            return model
    raise InputError(f"{path}: no model for {engine}; there is one for {', '.join(model.engine for model in found)}")


def open_session(model: ModelFile, *, context: int | None = None, threads: int | None = None) -> Session:
    """Load a model into its engine.

    Args:
        model: what to open.
        context: tokens of key-value cache; None takes the model's own limit.
        threads: CPU threads; None takes the physical cores this process may use.

    Raises:
        InputError: a damaged file, a context beyond the model's limit, or a missing extra.
    """
    if model.engine == "llama.cpp":
        from edgepress.runtime.llamacpp import LlamaCppSession

        return LlamaCppSession(model.path, context=context, threads=threads)
    if model.stands_in:
        from edgepress.runtime.ort_standard import OrtStandardSession

        return OrtStandardSession(model.path, context=context, threads=threads)
    if model.engine == "onnxruntime":
        from edgepress.runtime.ort_genai import OrtGenaiSession

        return OrtGenaiSession(model.path, context=context, threads=threads)
    if model.engine == "tensorrt":
        from edgepress.runtime.tensorrt_session import TensorrtSession

        return TensorrtSession(model.path, context=context, threads=threads)
    from edgepress.runtime.torch_reference import TorchSession

    return TorchSession(Checkpoint(model.path), context=context, threads=threads)
