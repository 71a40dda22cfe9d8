"""A Hugging Face directory: ``config.json``, tokenizer files, and safetensors in one file or in indexed shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import EMBEDDING, FAMILIES, HEAD
from edgepress.artifact.hf_config import find_family
from edgepress.compress.student.expected import in_expected_order, is_harmless, read_spec
from edgepress.compress.student.hf_tokenizer import tokenizer_files, tokenizer_json_dir
from edgepress.compress.student.json_file import read_json
from edgepress.compress.student.safetensors_file import Location, check_readable, locate_tensors, read_tensor
from edgepress.compress.student.student import Student, read_bytes
from edgepress.errors import InputError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

_COMPARE_BYTES = 1 << 22


class HfDirectory(Student):
    """A student in a Hugging Face directory. Checked when it is opened; weights are read later, one at a time.

    Raises:
        InputError: anything missing, damaged or not supported, named in one line.
    """

    def __init__(self, directory: Path, *, name: str | None = None, source: str | None = None) -> None:
        self.directory = directory
        self.name = name or directory.resolve().name
        self.source = source or str(directory)
        config = _read_config(directory)
        locations = _find_tensors(directory)
        for tensor, location in locations.items():
            check_readable(tensor, location)
        notes: list[str] = []
        tied = _is_tied(config, locations, notes)
        if tied:
            locations.pop(HEAD, None)
        self.config = config | {"tie_word_embeddings": tied}
        self.spec = read_spec(self.config, tied=tied, where=f"{directory}/config.json")
        stored = {name: location.stored for name, location in locations.items()}
        self.tensors = in_expected_order(stored, self.spec, self.config, str(directory))
        self._locations = locations
        self._tokenizer_files = tokenizer_files(directory)
        self._tokenizer_dir = tokenizer_json_dir(directory, self._tokenizer_files)
        self.notes = tuple(notes)

    @property
    def tokenizer_dir(self) -> Path:
        """The directory itself, or one in the cache when the tokenizer had to be converted to ``tokenizer.json``."""
        return self._tokenizer_dir

    def _load(self, name: str) -> NDArray[np.float32]:
        return read_tensor(self._locations[name])

    def _files(self) -> tuple[Path, ...]:
        weights = {location.path for location in self._locations.values()}
        return (self.directory / "config.json", *sorted(weights), *self._tokenizer_files)


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.is_file():
        found = sorted(directory.glob("*.gguf"))
        hint = f"it holds {found[0].name}: give that file" if found else "wanted a Hugging Face model directory"
        if (directory / "adapter_config.json").is_file():
            hint = "it holds an adapter: merge it into its base model first"
        raise InputError(f"{directory}: there is no config.json here; {hint}")
    config = read_json(path)
    if config.get("quantization_config"):
        quantization = config["quantization_config"]
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
        raise InputError(
            f"{path}: the weights are already quantized (quantization_config, method {method!r}); "
            "give the unquantized model"
        )
    try:
        find_family(config)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    except (TypeError, LookupError) as error:
        raise InputError(f"{path}: model_type or architectures has the wrong type ({error})") from error
    return config


def _find_tensors(directory: Path) -> dict[str, Location]:
    """All tensors of all weight files. The index decides which files belong to the model."""
    if (directory / WEIGHTS_FILE).is_file():
        found = locate_tensors(directory / WEIGHTS_FILE)
    elif (directory / INDEX_FILE).is_file():
        found = _find_sharded(directory)
    else:
        raise InputError(_no_weights(directory))
    return {name: location for name, location in found.items() if not is_harmless(name)}


def _find_sharded(directory: Path) -> dict[str, Location]:
    index = directory / INDEX_FILE
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InputError(f"{index}: wanted weight_map, an object of tensor names and file names")
    found: dict[str, Location] = {}
    for shard in sorted(set(weight_map.values())):
        if shard != Path(shard).name:
            raise InputError(f"{index}: the shard {shard[:80]!r} is not a plain file name")
        if not (directory / shard).is_file():
            raise InputError(
                f"{directory}: shard {shard[:80]!r} is missing, which {INDEX_FILE} names; download it as well"
            )
        for name, location in locate_tensors(directory / shard).items():
            if name in found:
                raise InputError(
                    f"{directory}: duplicate tensor {name[:100]!r}, in {found[name].path.name} and {shard}"
                )
            found[name] = location
    for name, shard in weight_map.items():
        if name not in found or found[name].path.name != shard:
            raise InputError(f"{directory}: {name[:100]!r} is not in {shard}, where {INDEX_FILE} places it")
    return found


def _no_weights(directory: Path) -> str:
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLE_SUFFIXES)
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    if pickles:
        return (
            f"{directory}: {pickles[0]} is a pickle checkpoint, which can run code and is never loaded; "
            "convert to safetensors"
        )
    if others:
        return f"{directory}: {others[0]} is here, but neither {WEIGHTS_FILE} nor {INDEX_FILE}"
    return f"{directory}: no weights here; wanted {WEIGHTS_FILE} or {INDEX_FILE}"


def _is_tied(config: dict[str, Any], locations: dict[str, Location], notes: list[str]) -> bool:
    """Whether the embedding serves as the head. The file decides; the configuration only where it can be believed."""
    default = FAMILIES[find_family(config).name].scaled_embedding
    claimed = bool(config.get("tie_word_embeddings", default))
    if HEAD not in locations:
        if config.get("tie_word_embeddings") is False:
            notes.append("config.json says that the head is not tied, but there is none: the embedding serves as head")
        return True
    if not claimed:
        return False
    if EMBEDDING in locations and _equal(locations[EMBEDDING], locations[HEAD]):
        return True
    notes.append("config.json says that the head is tied, but lm_head.weight differs: it is kept as a head of its own")
    return False


def _equal(first: Location, second: Location) -> bool:
    """Whether two tensors hold the same values, compared in pieces."""
    if first.stored.shape != second.stored.shape:
        return False
    if first.stored.type != second.stored.type:
        return bool(np.array_equal(read_tensor(first), read_tensor(second)))
    size = {"F32": 4, "F16": 2, "BF16": 2}.get(first.stored.type, 0)
    total = int(np.prod(first.stored.shape, dtype=np.int64)) * size
    for start in range(0, total, _COMPARE_BYTES):
        count = min(_COMPARE_BYTES, total - start)
        a = read_bytes(first.path, first.offset + start, count)
        if not np.array_equal(a, read_bytes(second.path, second.offset + start, count)):
            return False
    return True
