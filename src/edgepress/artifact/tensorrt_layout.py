"""tensorrt.json: what a program must know of an exported graph to build engines from it and to run it.

Names and shapes of the graph; i counts the layers that have attention, each with kv_heads of its own:

    input_ids, position_ids              int64    (batch, sequence)
    attention_mask                       int64    (batch, past + sequence)
    past_key_values.{i}.{key,value}      float16  (batch, kv_heads, past, head_dim)
    logits                               float32  (batch, sequence, vocab)
    present.{i}.{key,value}              float16  (batch, kv_heads, past + sequence, head_dim)

Batches are padded on the left, with zeros in the mask.

An engine has one optimization profile for prompts and single tokens, or one for each. TensorRT chooses kernels when an
engine is built, by timing them at each profile's usual shapes: there two pay. TensorRT-RTX compiles kernels for the
shapes that it meets when the engine runs ("Working with Dynamic Shapes" in its documentation), and a second profile
adds the same code again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgepress.artifact.spec import ModelSpec
from edgepress.errors import InputError

LAYOUT_FILE = "tensorrt.json"
ADDED_LATER = ("engines/", "build_engine.sh")  # to an export's directory, by other commands and on other machines
FORMAT_VERSION = 2

Range = tuple[int, int, int]
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
NumberType = Literal["float32", "float16", "float8", "int8", "int4"]
Profiles = Literal["one", "two"]
ProfileName = Literal["both", "prefill", "decode"]
Positive = Annotated[int, msgspec.Meta(ge=1)]

SUITED_PROFILES: dict[str, Profiles] = {"tensorrt": "two", "tensorrt_rtx": "one"}

_TOKENS_A_CALL = 512
_LOGITS_BYTES = 1 << 27  # of one call; prompts are cut so that these stay within this
_SEQUENCE_USUAL = 128
_PAST_USUAL = 512


class TensorrtOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an export's engines are made for.

    ``targets`` are GPUs or compute capabilities to build for ahead of time; ``profiles`` is one or two, None what suits
    the library that builds; ``batch`` the most sequences, ``call_tokens`` the most tokens of a call (None: 512, fewer
    where their logits would pass 128 MiB), ``context`` the most tokens of a sequence (None: the model's).
    """

    targets: tuple[str, ...] = ()
    profiles: Profiles | None = None
    batch: Positive = 4
    call_tokens: Positive | None = None
    context: Positive | None = None


DEFAULTS = TensorrtOptions()


class LayerCache(msgspec.Struct, frozen=True, kw_only=True):
    """What a layer caches."""

    kv_heads: int


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Least, usual and greatest number of sequences, of tokens that come in, and of tokens in the cache before."""

    batch: Range
    sequence: Range
    past: Range


class TensorrtLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``tensorrt.json``. ``number_types`` are those of the weights, which decide where engines run;
    ``sparse_weights`` says that two of four neighbouring weights are zero, for which some GPUs have kernels.

    ``context``, ``batch`` and ``call_tokens`` are the most that engines take, as in :class:`TensorrtOptions`.
    """

    format_version: int = FORMAT_VERSION
    dtype: Literal["float16"] = "float16"
    layers: tuple[LayerCache, ...]
    head_dim: int
    vocab: int
    context: int
    batch: int
    call_tokens: int
    number_types: tuple[NumberType, ...]
    profiles: Profiles | None = None
    sparse_weights: Literal[0, 1] = 0  # a digit, so that the file's size can be told before the weights are known
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def ranges(self) -> dict[ProfileName, Profile]:
        """The profiles of an engine, in its order; ``profiles`` is settled."""
        past, batch = self.context - 1, (1, 1, self.batch)
        usual, cached = min(_SEQUENCE_USUAL, self.call_tokens), min(_PAST_USUAL, past)
        if self.profiles == "one":
            return {"both": Profile(batch=batch, sequence=(1, usual, self.call_tokens), past=(0, cached, past))}
        assert self.profiles == "two", "whether engines have one or two profiles is not settled"
        return {
            "prefill": Profile(batch=batch, sequence=(1, usual, self.call_tokens), past=(0, 0, past)),
            "decode": Profile(batch=batch, sequence=(1, 1, 1), past=(0, cached, past)),
        }

    def settled(self, library: str, asked: Profiles | None = None) -> TensorrtLayout:
        """The layout with as many profiles as are asked for, else as the export says, else as suit the library."""
        return msgspec.structs.replace(self, profiles=asked or self.profiles or SUITED_PROFILES[library])

    def shapes(self, profile: ProfileName) -> dict[str, Shapes]:
        """Least, usual and greatest shape of every input in a profile."""
        ranges = self.ranges[profile]
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


def cache_names(count: int, prefix: str) -> tuple[str, ...]:
    """Names of the keys and values of as many layers as have them; ``prefix`` is ``past_key_values`` or ``present``."""
    return tuple(f"{prefix}.{i}.{side}" for i in range(count) for side in ("key", "value"))


def decoder_layout(
    spec: ModelSpec, number_types: tuple[NumberType, ...], options: TensorrtOptions = DEFAULTS
) -> TensorrtLayout:
    """The layout of a decoder's graph.

    Args:
        spec: the model.
        number_types: of its weights.
        options: limits of its engines.

    Raises:
        InputError: a context beyond the model's, or calls beyond the context.
    """
    context = options.context or spec.context
    if context > spec.context:
        raise InputError(f"TensorRT export: context {context}, the model's is {spec.context} tokens")
    if (options.call_tokens or 1) > context:
        raise InputError(f"TensorRT export: calls of {options.call_tokens} tokens in a context of {context}")
    fitting = max(1, min(_TOKENS_A_CALL, _LOGITS_BYTES // (4 * spec.vocab * options.batch), context))
    inputs, outputs = _names(len(spec.attending))
    return TensorrtLayout(
        layers=tuple(LayerCache(kv_heads=spec.layers[index].kv_heads) for index in spec.attending),
        head_dim=spec.head_dim,
        vocab=spec.vocab,
        context=context,
        batch=options.batch,
        call_tokens=options.call_tokens or fitting,
        number_types=number_types,
        profiles=options.profiles,
        inputs=inputs,
        outputs=outputs,
    )


class _Version(msgspec.Struct, frozen=True):
    format_version: int


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
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise InputError(f"{path}: format version {version}, this edgepress reads {FORMAT_VERSION}; export again")
        layout = msgspec.json.decode(content, type=TensorrtLayout)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path}: cannot be read as the description of a TensorRT export ({error})") from error
    fault = _fault(layout)
    if fault is not None:
        raise InputError(f"{path}: {fault}; export again")
    return layout


def _names(caches: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the inputs and of the outputs."""
    tokens = ("input_ids", "position_ids", "attention_mask")
    return (*tokens, *cache_names(caches, "past_key_values")), ("logits", *cache_names(caches, "present"))


def _fault(layout: TensorrtLayout) -> str | None:
    """What keeps a layout from describing any graph."""
    sizes = [layout.head_dim, layout.vocab, layout.context, layout.batch, *(layer.kv_heads for layer in layout.layers)]
    if not layout.layers or min(sizes) < 1:
        return "without layers, or with sizes below 1"
    if (layout.inputs, layout.outputs) != _names(len(layout.layers)):
        return f"its inputs and outputs are not those of {len(layout.layers)} layers"
    if not 1 <= layout.call_tokens <= layout.context:
        return f"calls of {layout.call_tokens} tokens in a context of {layout.context}"
    return None
