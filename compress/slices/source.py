"""An encoder or vision model in a Hugging Face directory, loaded by transformers from safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from edgepress.artifact.encoder_families import ENCODER_FAMILIES, EncoderFamily
from edgepress.compress.slices.shape import read_shape
from edgepress.compress.student.json_file import read_json
from edgepress.compress.student.safetensors_file import locate_tensors
from edgepress.errors import InputError

_CONSTANTS = ("position_ids", "token_type_ids")  # older exports stored these, which follow from the configuration


@dataclass(frozen=True)
class EncoderDirectory:
    """A loaded encoder.

    config    of ``config.json``, with what transformers fills in
    tensors   by transformers' module names, in the type that they are stored in
    model     the same in float32, in eval mode
    absent    tensors that the class has and the files do not (a pooler): random in ``model``, and not to be written
    """

    directory: Path
    family: EncoderFamily
    architecture: str
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    model: nn.Module
    absent: frozenset[str]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(values.numel() for name, values in self.tensors.items() if name not in self.absent)


def encoder_family(directory: Path) -> EncoderFamily | None:
    """The family of a directory's model; None where it is no directory or none of an encoder.

    Raises:
        InputError: ``config.json`` is damaged.
    """
    path = directory / "config.json"
    kind = read_json(path).get("model_type") if path.is_file() else None
    return ENCODER_FAMILIES.get(kind) if isinstance(kind, str) else None


def open_encoder(directory: Path, family: EncoderFamily) -> EncoderDirectory:
    """Load an encoder.

    Raises:
        InputError: no safetensors, a class whose tensors are not known, or files that are damaged or do not fit it.
    """
    stated = read_json(directory / "config.json")
    architecture = _architecture(directory, stated, family)
    _check_sizes(directory, stated, family)
    model, absent = _load(directory, architecture)
    config = model.config.to_dict()
    tensors = dict(model.state_dict())
    for name, values in tensors.items():
        if not bool(torch.isfinite(values).all()):
            raise InputError(f"{directory}: {name} has values that are NaN or infinite; the model is broken")
    return EncoderDirectory(directory, family, architecture, config, tensors, model.float().eval(), absent)


def _architecture(directory: Path, config: dict[str, Any], family: EncoderFamily) -> str:
    """The class; whatever is no plain encoder is refused."""
    names = config.get("architectures") or [family.base]
    name = names[0] if isinstance(names, list) else names
    if name not in family.architectures:
        raise InputError(
            f"{directory}: {name!r:.60} is a {family.name} model whose head cannot be cut; known: "
            f"{', '.join(family.architectures)}"
        )
    for field in ("is_decoder", "add_cross_attention", "quantization_config"):
        if config.get(field):
            raise InputError(f"{directory}/config.json: {field} is set; wanted an encoder that is not quantized")
    return str(name)


def _check_sizes(directory: Path, config: dict[str, Any], family: EncoderFamily) -> None:
    """Refuse damaged files, and a configuration of more weights than they hold, before any of that size are made."""
    files = list(directory.glob("*.safetensors"))
    if not files:
        raise InputError(f"{directory}: no *.safetensors here; other weight files can run code and are never loaded")
    kind = transformers.AutoConfig.for_model(family.name).to_dict()
    shape = read_shape(kind | config, family, f"{directory}/config.json")
    weights = shape.layers * shape.hidden * (4 * shape.hidden + 2 * shape.ffn)
    stored = sum(prod(found.stored.shape) for file in files for found in locate_tensors(file).values())
    if weights > stored:
        raise InputError(
            f"{directory}/config.json: {shape.layers} layers of {shape.hidden} channels and {shape.ffn} neurons have "
            f"{weights} weights and more, and the files hold {stored}"
        )


def _load(directory: Path, architecture: str) -> tuple[Any, frozenset[str]]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, found = getattr(transformers, architecture).from_pretrained(
                directory,
                attn_implementation="sdpa",
                dtype="auto",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # transformers' own validation raises kinds of its own
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{directory}: cannot be loaded as {architecture} ({reason})") from error
    missing = sorted(name for name in found["missing_keys"] if "pooler." not in name)
    unknown = sorted(name for name in found["unexpected_keys"] if not name.endswith(_CONSTANTS))
    if missing or unknown:
        what = f"has no {missing[0]}" if missing else f"has {unknown[0]!r:.100}, for which {architecture} has no place"
        raise InputError(f"{directory}: the weights do not fit the configuration: the file {what}")
    return model, frozenset(found["missing_keys"])
