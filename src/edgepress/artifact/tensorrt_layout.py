"""tensorrt.json: what a program must know of an exported graph to build engines from it and to run it.

Names and shapes of the graph, for L layers and kv_heads of each layer's own:

    input_ids, position_ids              int64    (batch, sequence)
    attention_mask                       int64    (batch, past + sequence)
    past_key_values.{i}.{key,value}      float16  (batch, kv_heads, past, head_dim)
    logits                               float32  (batch, sequence, vocab)
    present.{i}.{key,value}              float16  (batch, kv_heads, past + sequence, head_dim)

Batches are padded on the left, with zeros in the mask. Of the optimization profiles one is for prompts, one for single
tokens; their numbers are least, usual and greatest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgepress.artifact.spec import ModelSpec
from edgepress.errors import InputError

LAYOUT_FILE = "tensorrt.json"
ADDED_LATER = ("engines/", "build_engine.sh")  # to an export's directory, by other commands and on other machines
FORMAT_VERSION = 1

Range = tuple[int, int, int]
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
NumberType = Literal["float32", "float16", "int8", "int4"]

_TOKENS_A_CALL = 512
_LOGITS_BYTES = 1 << 27  # of one call; prompts are cut so that these stay within this
_SEQUENCE_USUAL = 128
_PAST_USUAL = 512


class LayerCache(msgspec.Struct, frozen=True, kw_only=True):
    """What a layer caches."""

    kv_heads: int


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Least, usual and greatest number of sequences, of tokens that come in, and of tokens in the cache before."""

    batch: Range
    sequence: Range
    past: Range


class TensorrtLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``tensorrt.json``. ``number_types`` are those of the weights, which decide where engines run."""

    format_version: int = FORMAT_VERSION
    dtype: Literal["float16"] = "float16"
    layers: tuple[LayerCache, ...]
    head_dim: int
    vocab: int
    context: int
    number_types: tuple[NumberType, ...]
    profiles: dict[Literal["prefill", "decode"], Profile]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def shapes(self, profile: Literal["prefill", "decode"]) -> dict[str, Shapes]:
        """Least, usual and greatest shape of every input in a profile."""
        ranges = self.profiles[profile]
        points = [(ranges.batch[at], ranges.sequence[at], ranges.past[at]) for at in range(3)]
        tokens = [(batch, sequence) for batch, sequence, _past in points]
        masks = [(batch, past + sequence) for batch, sequence, past in points]
        found: dict[str, Shapes] = {}
        for name in self.inputs:
            if name.startswith("past_key_values."):
                heads = self.layers[int(name.split(".")[1])].kv_heads
                cache = [(batch, heads, past, self.head_dim) for batch, _sequence, past in points]
                found[name] = (cache[0], cache[1], cache[2])
            elif name == "attention_mask":
                found[name] = (masks[0], masks[1], masks[2])
            else:
                found[name] = (tokens[0], tokens[1], tokens[2])
        return found


def cache_names(depth: int, prefix: str) -> tuple[str, ...]:
    """Names of all layers' keys and values; ``prefix`` is ``past_key_values`` or ``present``."""
    return tuple(f"{prefix}.{i}.{side}" for i in range(depth) for side in ("key", "value"))


def decoder_layout(spec: ModelSpec, number_types: tuple[NumberType, ...], *, batch: int = 4) -> TensorrtLayout:
    """The layout of a decoder's graph.

    Args:
        spec: the model.
        number_types: of its weights.
        batch: sequences at most.
    """
    inputs, outputs = _names(spec.depth)
    longest = max(1, min(_TOKENS_A_CALL, _LOGITS_BYTES // (4 * spec.vocab * batch), spec.context))
    usual, past, batches = min(_SEQUENCE_USUAL, longest), spec.context - 1, (1, 1, batch)
    return TensorrtLayout(
        layers=tuple(LayerCache(kv_heads=layer.kv_heads) for layer in spec.layers),
        head_dim=spec.head_dim,
        vocab=spec.vocab,
        context=spec.context,
        number_types=number_types,
        profiles={
            "prefill": Profile(batch=batches, sequence=(1, usual, longest), past=(0, 0, past)),
            "decode": Profile(batch=batches, sequence=(1, 1, 1), past=(0, min(_PAST_USUAL, past), past)),
        },
        inputs=inputs,
        outputs=outputs,
    )


def is_tensorrt(directory: Path) -> bool:
    """Whether a directory holds a graph for TensorRT."""
    return (directory / LAYOUT_FILE).is_file()


def write_layout(layout: TensorrtLayout) -> bytes:
    """The bytes of ``tensorrt.json``."""
    return msgspec.json.format(msgspec.json.encode(layout), indent=2) + b"\n"


def read_layout(directory: Path) -> TensorrtLayout:
    """The layout of an exported directory.

    Raises:
        InputError: no file there, or not one of this version.
    """
    path = directory / LAYOUT_FILE
    try:
        layout = msgspec.json.decode(path.read_bytes(), type=TensorrtLayout)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path}: cannot be read as the description of a TensorRT export ({error})") from error
    if layout.format_version != FORMAT_VERSION:
        raise InputError(f"{path}: format version {layout.format_version}, this edgepress reads {FORMAT_VERSION}")
    fault = _fault(layout)
    if fault is not None:
        raise InputError(f"{path}: {fault}; export again")
    return layout


def _names(depth: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the inputs and of the outputs."""
    tokens = ("input_ids", "position_ids", "attention_mask")
    return (*tokens, *cache_names(depth, "past_key_values")), ("logits", *cache_names(depth, "present"))


def _fault(layout: TensorrtLayout) -> str | None:
    """What keeps a layout from describing any graph."""
    sizes = [layout.head_dim, layout.vocab, layout.context, *(layer.kv_heads for layer in layout.layers)]
    if not layout.layers or min(sizes) < 1:
        return "without layers, or with sizes below 1"
    if (layout.inputs, layout.outputs) != _names(len(layout.layers)):
        return f"its inputs and outputs are not those of {len(layout.layers)} layers"
    for name, profile in layout.profiles.items():
        for axis, (least, usual, greatest) in msgspec.structs.asdict(profile).items():
            if not 0 <= least <= usual <= greatest:
                return f"profile {name}: {axis} is {[least, usual, greatest]}, wanted least, usual and greatest"
    return None if layout.profiles else "no profiles"
