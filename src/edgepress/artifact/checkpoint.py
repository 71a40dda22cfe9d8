"""Checkpoint: a compressed model on disk, between ``compress`` and ``export``.

A directory that is at once

- a Hugging Face model: ``config.json``, tokenizer files and ``model-*.safetensors`` with the *dequantized* float32
  weights, so that transformers (and the torch reference) load exactly the values that ship, and
- the integers behind them: ``quantized-*.safetensors`` holds ``<name>|codes``, ``<name>|scales`` and so on, and
  ``tensors.json`` the format of every tensor; ``activations.json``, where there is one, the static scales of the
  linears' inputs.

Written shard by shard (one per layer), so that memory does not grow with depth; read lazily.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edgepress.artifact.activations import Activations, read_activations
from edgepress.artifact.files import sha256_file
from edgepress.artifact.formats import Format, get_format
from edgepress.artifact.hf_config import model_spec
from edgepress.artifact.plan import ModelPlan, TensorPlan
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.artifact.spec import ModelSpec
from edgepress.errors import InputError

TENSORS_FILE = "tensors.json"
INDEX_FILE = "model.safetensors.index.json"

# Of the files that define a model: weights, configuration, tokenizer, chat template.
MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")

Stored = QuantizedTensor | NDArray[np.float32]


class CheckpointWriter:
    """Writes a checkpoint into an existing directory, one shard at a time."""

    def __init__(self, directory: Path, shards: int) -> None:
        self._directory = directory
        self._shards = shards
        self._written = 0
        self._formats: dict[str, dict[str, Any]] = {}
        self._weight_map: dict[str, str] = {}
        self._bytes = 0

    def write_shard(self, tensors: Mapping[str, Stored], formats: Mapping[str, str]) -> None:
        """Write the next shard. ``formats`` names the shipped format of each tensor (f32, f16 or a block format)."""
        self._written += 1
        place = f"{self._written:05d}-of-{self._shards:05d}.safetensors"
        dense: dict[str, NDArray[np.float32]] = {}
        packed: dict[str, NDArray[Any]] = {}
        for name, tensor in tensors.items():
            if isinstance(tensor, QuantizedTensor):
                packed |= {f"{name}|{part}": np.ascontiguousarray(array) for part, array in tensor.parts().items()}
                dense[name] = tensor.dequantize()
            else:
                dense[name] = np.ascontiguousarray(tensor, dtype=np.float32)
            self._formats[name] = {"format": formats[name], "shape": list(dense[name].shape)}
            if isinstance(tensor, QuantizedTensor):
                self._formats[name]["file"] = f"quantized-{place}"
            self._weight_map[name] = f"model-{place}"
            self._bytes += dense[name].nbytes
        save_file(dense, self._directory / f"model-{place}", metadata={"format": "pt"})
        if packed:
            save_file(packed, self._directory / f"quantized-{place}")

    def finish(self, config: Mapping[str, Any], name: str) -> None:
        """Write the configuration, the model's name and the indexes; the checkpoint is complete after this."""
        assert self._written == self._shards, f"{self._written} of {self._shards} shards written"
        index = {"metadata": {"total_size": self._bytes}, "weight_map": self._weight_map}
        _dump(self._directory / INDEX_FILE, index)
        _dump(self._directory / "config.json", dict(config) | {"dtype": "float32"})
        _dump(self._directory / TENSORS_FILE, {"name": name, "tensors": self._formats})


class _Entry(msgspec.Struct, frozen=True):
    format: str
    shape: tuple[int, ...]
    file: str | None = None


class _Tensors(msgspec.Struct, frozen=True):
    name: str
    tensors: dict[str, _Entry]


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


class Checkpoint:
    """Reads a checkpoint; a :class:`~edgepress.artifact.weights.WeightSource`.

    ``activation_scales`` has the static scale of each linear whose input is rounded, by the weight's name, and
    ``activation_format`` says to what.

    Raises:
        InputError: the checkpoint is damaged; from here, or from reading a tensor.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self.config: dict[str, Any] = _load(directory / "config.json")
            tensors = msgspec.convert(_load(directory / TENSORS_FILE), _Tensors)
            index = msgspec.convert(_load(directory / INDEX_FILE), _Index)
            self.spec: ModelSpec = model_spec(self.config, tied="lm_head.weight" not in tensors.tensors)
            activations = read_activations(directory, tensors.tensors.keys())
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(f"{directory}: damaged checkpoint ({error})") from error
        self.activation_format, self.activation_scales = activations.format, activations.scales
        self.name = tensors.name
        self._entries = tensors.tensors
        self._weight_map = index.weight_map
        if nowhere := self._entries.keys() - self._weight_map.keys():
            raise self._damaged(f"{INDEX_FILE} has no place for {min(nowhere)}")

    @property
    def activations(self) -> Activations:
        """The static inputs."""
        return Activations(self.activation_format, self.activation_scales)

    @property
    def tokenizer_dir(self) -> Path:
        """The checkpoint's own directory."""
        return self.directory

    @property
    def names(self) -> tuple[str, ...]:
        """Hugging Face names of all tensors, in file order."""
        return tuple(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._entries[name].shape

    def format(self, name: str) -> str:
        """Name of the format a tensor ships in."""
        return self._entries[name].format

    def plan(self) -> ModelPlan:
        """Shapes and formats of all tensors."""
        tensors = tuple(
            TensorPlan(
                name=name,
                shape=self.shape(name),
                format=self.format(name),
                input_format=self.activation_format if name in self.activation_scales else "float",
            )
            for name in self._entries
        )
        return ModelPlan(
            name=self.name,
            spec=self.spec,
            config=self.config,
            tokenizer_dir=self.tokenizer_dir,
            tensors=tensors,
        )

    def read(self, name: str) -> NDArray[np.float32]:
        """The values of a tensor as they ship, float32."""
        values: NDArray[np.float32] = self._open(self._weight_map[name], [name])[0]
        if values.shape != self.shape(name):
            raise self._damaged(f"{name} is {list(values.shape)}, {TENSORS_FILE} says {list(self.shape(name))}")
        return values

    def quantized(self, name: str) -> QuantizedTensor | None:
        """The integers and scales of a tensor; None when it ships as floats."""
        file = self._entries[name].file
        if file is None:
            return None
        fields = [field for field in QuantizedTensor.__struct_fields__ if field != "format"]
        parts = self._open(file, [f"{name}|{field}" for field in fields], missing_ok=True)
        present = {field: part for field, part in zip(fields, parts, strict=True) if part is not None}
        if not _fit_together(present, get_format(self.format(name)), self.shape(name)):
            raise self._damaged(f"the parts of {name} in {file} are not those of a {self.format(name)} tensor")
        return QuantizedTensor(format=self.format(name), **present)

    def digest(self) -> str:
        """sha256 over all files that define the model."""
        import hashlib

        total = hashlib.sha256()
        for path in sorted(self.directory.iterdir()):
            if path.suffix in MODEL_SUFFIXES:
                total.update(f"{path.name} {sha256_file(path)}\n".encode())
        return total.hexdigest()

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.directory}: damaged checkpoint ({what})")

    def _open(self, file: str, keys: list[str], missing_ok: bool = False) -> list[Any]:
        path = self.directory / file
        try:
            # Opened per read: closing unmaps the file, which keeps resident memory to what is in use.
            with safe_open(path, framework="numpy") as shard:
                present = set(shard.keys())
                return [shard.get_tensor(key) if key in present or not missing_ok else None for key in keys]
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read as safetensors ({error}); the checkpoint is damaged") from error


def _fit_together(parts: Mapping[str, Any], spec: Format, shape: tuple[int, ...]) -> bool:
    """Whether a quantized tensor's arrays are there, of the right shapes, and its codes within the format's levels."""
    if spec.kind == "float" or "codes" not in parts or len(shape) != 2 or not spec.fits(shape[1]):
        return False
    fine, coarse = (shape[0], shape[1] // spec.scale_width(shape[1])), (shape[0], shape[1] // spec.block)
    shapes = {"codes": shape, "scales": fine}
    shapes |= {"mins": fine} if spec.has_min else {}
    if spec.kind == "super":
        shapes |= {"super_scales": coarse} | ({"super_mins": coarse} if spec.has_min else {})
    found = {part: array.shape for part, array in parts.items()}
    codes = parts["codes"]
    return found == shapes and codes.dtype == np.uint8 and int(codes.max(initial=0)) < len(spec.levels)


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory was written by :class:`CheckpointWriter`."""
    return (directory / TENSORS_FILE).is_file()


def _dump(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: wanted a JSON object")
    return document
