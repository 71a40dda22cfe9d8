"""Even columns of the output projection: what they differ by moves into the rows of the values.

Attention mixes values linearly and feature by feature, so v's feature i may be divided by s_i, its bias too, when the
columns of o that read it are multiplied: one for each query head of the group. s is that of ``scale_up_down``, with the
largest of the columns that share a factor, so that none stands out.
"""

from __future__ import annotations

from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.folding import FoldedModel
from edgepress.compress.quantize.prepare.scale_up_down import even_columns


def scale_v_o(source: WeightSource) -> FoldedModel:
    """The model with o's columns as even as the sharing of values allows."""
    return even_columns(source, "attn_v")
