"""A Hugging Face directory → a float32 ONNX graph, by transformers' exporter, with what that leaves to mend.

- A sample batch of 1 would freeze the batch axis: the sample has 2.
- Axes carry the tracer's symbols, and fixed sizes arrive as digits in names, which TensorRT refuses: axes are named
  ``batch`` and ``sequence``, digits become numbers.
- Attention is traced as plain operators ("eager"), which TensorRT fuses by itself.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgepress.errors import InputError, require

OPSET = 21
_SAMPLE_TOKENS = 16
_AXES = ("batch", "sequence")
_NOISY = ("torch.onnx", "torch.onnx._internal.exporter._registration", "torch.export", "transformers")


class Traced(msgspec.Struct, frozen=True, kw_only=True):
    """A traced model. ``proto`` is an ``onnx.ModelProto``; ``sample`` the inputs that it was traced with and
    ``answers`` what torch made of them, both by name. ``tokens_limit`` is None for images.
    """

    architecture: str
    proto: Any
    sample: dict[str, Any]
    answers: dict[str, Any]
    tokens_limit: int | None


def trace(directory: Path) -> Traced:
    """Export an encoder or classifier.

    Raises:
        InputError: not a Hugging Face directory with safetensors, an unknown architecture, or a language model.
    """
    torch, transformers = require("torch", "encoder"), require("transformers", "encoder")
    exporters = require("transformers.exporters", "encoder")
    require("onnxscript", "encoder")
    config = _read_config(directory)
    architecture = _architecture(directory, config, transformers)
    with _quiet(transformers.logging):
        model = _load(directory, getattr(transformers, architecture))
        model.config.use_cache = False  # keys and values of a decoder that is used as an encoder are no answer
        sample = _sample_inputs(model, torch)
        _refuse_language_model(directory, model)
        for weight in model.parameters():
            weight.requires_grad_(False)
        try:
            answers, proto = _export(model, sample, torch, exporters)
        except Exception as error:  # whatever a model's code or the exporter raises
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(f"{directory}: {architecture} cannot be exported to ONNX: {reason}") from error
    _name_axes(proto)
    return Traced(
        architecture=architecture,
        proto=proto,
        sample={name: value.numpy() for name, value in sample.items()},
        answers={name: value.numpy() for name, value in answers.items()},
        tokens_limit=_tokens_limit(model.config) if "input_ids" in sample else None,
    )


def _export(model: Any, sample: dict[str, Any], torch: Any, exporters: Any) -> tuple[dict[str, Any], Any]:
    """What torch answers to the sample, and the graph."""
    with torch.no_grad():
        answers = {name: value for name, value in model(**sample).items() if isinstance(value, torch.Tensor)}
    axes = {name: dict.fromkeys(_dynamic(value), torch.export.Dim.DYNAMIC) for name, value in sample.items()}
    options = exporters.OnnxConfig(dynamic=True, dynamic_shapes=axes, opset_version=OPSET)
    program = exporters.OnnxExporter().export(model, sample, config=options).program
    return answers, require("onnx_ir", "encoder").to_proto(program)


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a model's configuration ({error})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no JSON object")
    if not list(directory.glob("*.safetensors")):
        raise InputError(f"{directory}: no *.safetensors here; other weight files are not read")
    return config


def _architecture(directory: Path, config: dict[str, Any], transformers: Any) -> str:
    names = config.get("architectures") or [None]
    name = names[0]
    if not isinstance(name, str) or not name.isidentifier() or not hasattr(transformers, name):
        raise InputError(f"{directory}: architecture {name!r} is not one of transformers {transformers.__version__}")
    return name


def _load(directory: Path, kind: Any) -> Any:
    try:
        model = kind.from_pretrained(
            directory, attn_implementation="eager", use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers' own validation raises kinds of its own
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{directory}: cannot be loaded as {kind.__name__} ({reason})") from error
    return model.float().eval()


def _refuse_language_model(directory: Path, model: Any) -> None:
    if model.can_generate() or getattr(model.config, "is_decoder", False):
        raise InputError(f"{directory}: {type(model).__name__} generates text; compress it and use 'edgepress export'")


def _sample_inputs(model: Any, torch: Any) -> dict[str, Any]:
    config, wanted = model.config, inspect.signature(model.forward).parameters
    if model.main_input_name == "pixel_values":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.randn(2, config.num_channels, height, width)}
    if model.main_input_name != "input_ids":
        raise InputError(f"{type(model).__name__} takes {model.main_input_name}; only text and images are supported")
    ids = torch.randint(5, config.vocab_size, (2, _SAMPLE_TOKENS))
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in wanted and getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    return inputs


def _dynamic(value: Any) -> range:
    return range(2) if value.ndim == 2 else range(1)


def _tokens_limit(config: Any) -> int:
    """Positions that the table has; RoBERTa counts from behind its padding id. T5, which has none, says what it saw."""
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if limit is None:
        raise InputError(f"{config.model_type}: its config.json does not say how many positions it has")
    limit = int(limit)
    return limit - config.pad_token_id - 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else limit


def _name_axes(proto: Any) -> None:
    """Name the axes of inputs, follow the tracer's symbols to the outputs, and turn digits into numbers."""
    known: dict[str, str] = {}
    for value in proto.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param and not dim.dim_param.isdigit():
                known[dim.dim_param] = _AXES[axis]
    for value in [*proto.graph.input, *proto.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.isdigit():
                dim.dim_value = int(dim.dim_param)
            elif dim.dim_param:
                dim.dim_param = known.get(dim.dim_param, dim.dim_param)
    del proto.graph.value_info[:]


@contextlib.contextmanager
def _quiet(progress: Any) -> Iterator[None]:
    """The exporters print their progress and log what does not concern a user."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bars = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            progress.enable_progress_bar()
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
