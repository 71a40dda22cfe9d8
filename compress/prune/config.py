"""The pruning steps of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgepress.compress.bounds import Natural

Method = Literal["obs", "flap", "wanda_sp", "activation", "magnitude"]
Unit = Literal["heads", "groups"]
Kept = Annotated[float, msgspec.Meta(gt=0, le=1)]
Divisor = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Widths = Literal["auto", "uniform", "per_layer"]


class PruneFfn(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="prune_ffn"
):
    """Remove neurons of the feed-forward layers.

    keep        share of the neurons of all layers that stays
    method      obs: those whose loss the others can best make up for. flap, wanda_sp, activation, magnitude: the
                published scores, to compare with
    repair      solve what stays for the original's outputs, then all layers for the original's residual stream; with
                flap, put the mean of what is gone into a bias
    reconstruct train each feed-forward that has lost neurons to do what the whole one did, before it is solved for
                the residual stream; only with repair, and not with flap or for models that normalise what a layer
                adds (gemma3)
    widths      per_layer: the layers share the budget by what each loses. uniform: all get the same width. auto:
                per_layer where every export target can hold such a model
    multiple_of widths are multiples of this: 32 for the 32-blocks, 64 for TensorRT, 256 for the K formats
    """

    keep: Kept
    method: Method = "obs"
    repair: bool = True
    reconstruct: bool = True
    widths: Widths = "auto"
    multiple_of: Divisor = 32


class PruneHeads(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="prune_heads"
):
    """Remove attention heads.

    keep        share of the query heads of all layers that stays
    unit        heads: the same number of query heads of every group, keys and values stay. groups: key-value heads
                with their query heads, which makes the cache smaller too
    method, repair, widths: as for prune_ffn
    """

    keep: Kept
    unit: Unit = "heads"
    method: Method = "obs"
    repair: bool = True
    widths: Widths = "auto"


class PruneLayers(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="prune_layers"
):
    """Drop whole layers, or their attention. Those that change their input least are proposed, the true divergence
    decides.

    drop        how many
    part        layer: all of it. attention: only that, with the norms around it; the first layer keeps its own
    repair      solve what stays for the residual stream of the whole model; not for models that normalise what a layer
                adds to it (gemma3)
    """

    drop: Natural
    part: Literal["layer", "attention"] = "layer"
    repair: bool = True


class PruneHidden(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="prune_hidden"
):
    """Remove channels of the residual stream: the width of the embedding, of every norm, and of one side of every
    matrix. Those go that the norms' outputs have least of. It costs much, so it wants a distill step behind it.

    keep        share of the channels that stays
    repair      solve what stays: what reads the stream for the whole model's products, what writes into it for the
                channels that are left of it
    multiple_of as many channels stay as a multiple of this: 32 for the 32-blocks, 64 for TensorRT, 256 for the K ones
    """

    keep: Kept
    repair: bool = True
    multiple_of: Divisor = 64


class TrimVocabulary(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="trim_vocabulary"
):
    """Leave out the tokens that a corpus uses least; what is written with them takes smaller ones, down to bytes.

    It comes before all other steps, and what follows is measured against the student with the smaller vocabulary.

    keep        share of the rows of the embedding that stays; all tokens where that is more than there are
    files       UTF-8 text like what the model will read and write; the calibration text unless given. An eighth of it
                is kept aside to say what the step costs
    multiple_of as many rows stay as a multiple of this, where there are tokens enough
    """

    keep: Kept
    files: tuple[str, ...] = ()
    multiple_of: Divisor = 64


class Sparsify(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="sparsify"):
    """Put zeros into the matrices of the layers. TensorRT has kernels for the 2:4 pattern on Ampere and later; other
    engines multiply zeros like any number. So it comes right before quantize, which has to keep them.

    pattern     2:4 or 4:8: so many of so many neighbouring inputs stay. anywhere: a share of each matrix goes
    share       of the weights that goes, with pattern: anywhere
    method      sparsegpt: what stays is solved for what went. wanda, magnitude: published scores, to compare with
    """

    pattern: Literal["2:4", "4:8", "anywhere"] = "2:4"
    share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    method: Literal["sparsegpt", "wanda", "magnitude"] = "sparsegpt"


PruneStep = PruneFfn | PruneHeads | PruneLayers | PruneHidden | Sparsify
