"""A student's sizes as shares of its teacher's, so that one recipe makes students of many teachers.

Width is cut in whole groups of heads (a key-value head and the query heads that read it), so that the ratio of the two
and the head dimension stay; residual and feed-forward channels are rounded to multiples of 64, which every format's
blocks and every engine's kernels divide.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from edgepress.artifact.spec import ModelSpec

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_MULTIPLE = 64


class Shares(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the teacher's width and depth, each above 0 and at most 1."""

    width: Share = 1.0
    depth: Share = 1.0


def sizes_from_shares(teacher: ModelSpec, shares: Shares) -> dict[str, Any]:
    """Fields of ``config.json`` as :func:`~edgepress.compress.distill.smaller.smaller_size` takes them."""
    layer = teacher.layers[0]
    groups = max(1, round(layer.kv_heads * shares.width))
    return {
        "hidden_size": rounded_share(teacher.hidden, shares.width),
        "intermediate_size": rounded_share(max(each.ffn for each in teacher.layers), shares.width),
        "num_hidden_layers": max(1, round(teacher.depth * shares.depth)),
        "num_attention_heads": groups * (layer.heads // layer.kv_heads),
        "num_key_value_heads": groups,
        "head_dim": teacher.head_dim,
    }


def rounded_share(size: int, share: float) -> int:
    """A share of a size in multiples of 64, never more than the size itself."""
    return min(size, max(_MULTIPLE, round(size * share / _MULTIPLE) * _MULTIPLE))
