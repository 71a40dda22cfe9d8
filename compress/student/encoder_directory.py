"""An encoder or vision model in a Hugging Face directory, loaded by transformers from safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from edgepress.artifact.encoder_families import ENCODER_FAMILIES, EncoderFamily
from edgepress.compress.student.json_file import read_json
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
    architecture = _architecture(directory, family)
    if not list(directory.glob("*.safetensors")):
        raise InputError(f"{directory}: no *.safetensors here; other weight files can run code and are never loaded")
    model, absent = _load(directory, architecture)
    config = model.config.to_dict()
    if config.get("is_decoder"):
        raise InputError(f"{directory}/config.json: is_decoder is true; only encoders are sliced by their table")
    tensors = dict(model.state_dict())
    for name, values in tensors.items():
        if not bool(torch.isfinite(values).all()):
            raise InputError(f"{directory}: {name} has values that are NaN or infinite; the model is broken")
    return EncoderDirectory(directory, family, architecture, config, tensors, model.float().eval(), absent)


def _architecture(directory: Path, family: EncoderFamily) -> str:
    names = read_json(directory / "config.json").get("architectures") or [family.base]
    if names[0] not in family.architectures:
        raise InputError(
            f"{directory}: {names[0]!r} is a {family.name} model whose head cannot be cut; known: "
            f"{', '.join(family.architectures)}"
        )
    return str(names[0])


def _load(directory: Path, architecture: str) -> tuple[Any, frozenset[str]]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, found = getattr(transformers, architecture).from_pretrained(
                directory,
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
