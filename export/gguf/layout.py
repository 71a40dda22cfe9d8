"""Which tensors a GGUF file holds, in file order, and how each comes out of a checkpoint.

Names, order and reordering are data from :mod:`edgepress.artifact.families`. llama.cpp rotates *neighbouring* pairs of
q and k values in the families marked ``interleaved_rope``, Hugging Face rotates value j with value j + head_dim / 2, so
the rows of each head are dealt out alternately from its two halves:

    row 2j + s of a head in GGUF = row s · head_dim / 2 + j in the checkpoint,   s = 0, 1
"""

from __future__ import annotations

import re

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import FAMILIES, LINEARS, gguf_names
from edgepress.artifact.formats import get_format
from edgepress.artifact.plan import ModelPlan
from edgepress.artifact.rope import divisors
from edgepress.artifact.spec import ModelSpec

ROPE_FACTORS = "rope_freqs.weight"

_ROTATED = re.compile(rf"\.(\d+)\.({re.escape(LINEARS['attn_q'])}|{re.escape(LINEARS['attn_k'])})\.(weight|bias)$")


class FileTensor(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of the file.

    ``source`` is its name in the checkpoint; None for the rope factors, which have none. ``heads`` is nonzero where the
    rows are reordered, head by head. ``offset`` is added to the stored values (the +1 of Gemma's norms).
    """

    name: str
    source: str | None
    shape: tuple[int, ...]
    format: str
    heads: int = 0
    offset: float = 0.0

    @property
    def data_bytes(self) -> int:
        """Bytes of its values, without padding."""
        values = int(np.prod(self.shape, dtype=np.int64))
        return get_format(self.format).tensor_bytes(values)

    def row_order(self) -> NDArray[np.intp] | None:
        """Index of the checkpoint's row that each row of the file holds; None where they agree."""
        if not self.heads:
            return None
        halves = np.arange(self.shape[0]).reshape(self.heads, 2, -1)
        return halves.swapaxes(1, 2).reshape(-1)


def file_tensors(plan: ModelPlan) -> list[FileTensor]:
    """All tensors of the file, in its order; vectors and norms are float32 as llama.cpp requires."""
    family = FAMILIES[plan.spec.family]
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    tensors = [_rope_factors(plan.spec)] if plan.spec.rope.scaling == "llama3" else []
    for source, name in gguf_names(family, plan.spec.depth).items():
        if source not in by_name:
            continue
        tensor = by_name[source]
        tensors.append(
            FileTensor(
                name=name,
                source=source,
                shape=tensor.shape,
                format=tensor.format if len(tensor.shape) > 1 else "f32",
                heads=_rotated_heads(source, plan.spec) if family.interleaved_rope else 0,
                offset=family.norm_offset if name.endswith("_norm.weight") else 0.0,
            )
        )
    return tensors


def rope_factors(spec: ModelSpec) -> NDArray[np.float32]:
    """What llama.cpp divides each rotary frequency by, float32, (head_dim / 2,)."""
    plain = spec.rope.theta ** (-np.arange(0, spec.head_dim, 2, dtype=np.float64) / spec.head_dim)
    return divisors(spec.rope, plain).astype(np.float32)


def _rope_factors(spec: ModelSpec) -> FileTensor:
    return FileTensor(name=ROPE_FACTORS, source=None, shape=(spec.head_dim // 2,), format="f32")


def _rotated_heads(source: str, spec: ModelSpec) -> int:
    """Heads of a q or k projection; 0 for any other tensor."""
    match = _ROTATED.search(source)
    if match is None:
        return 0
    layer = spec.layers[int(match[1])]
    return layer.heads if match[2] == LINEARS["attn_q"] else layer.kv_heads
