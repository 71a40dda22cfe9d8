"""Layer × role as a picture of what each matrix costs in nats; embedding and head, in no layer, stand beside it."""

from __future__ import annotations

import math

from edgepress.artifact.families import EMBEDDING, HEAD
from edgepress.benchmarks.report.contents import TensorLoss
from edgepress.benchmarks.report.figures.layer_maps import COLD_TO_HOT, colour_bar, grid, heat_map, map_layout
from edgepress.benchmarks.report.figures.theme import Figure, axis, log_ticks, plain
from edgepress.benchmarks.report.numerals import significant

_HOVER = "<b>%{customdata[0]}</b><br>%{customdata[1]} nats<br>%{customdata[2]}<extra></extra>"
_COLUMN, _GAP = 0.1, 0.04  # of the width
_DECADES = 3  # below the costliest, all else is as cold as it gets


def kld_map(tensors: tuple[TensorLoss, ...], depth: int) -> Figure | None:
    """Divergence of every matrix, logarithmic colours; what lost nothing stays empty. None where nothing was lost."""
    found = [tensor.kld for tensor in tensors if tensor.kld > 0]
    if not found:
        return None
    high = max(found)
    low = max(min(found), high / 10**_DECADES)
    by_name = {tensor.name: tensor for tensor in tensors if tensor.kld > 0}
    beside = [(title, by_name[name]) for name, title in ((EMBEDDING, "embed."), (HEAD, "head")) if name in by_name]
    colours = {"colorscale": COLD_TO_HOT, "zmin": math.log10(low) - 1e-3, "zmax": math.log10(high) + 1e-3}
    rows = grid(by_name, depth)
    inside = heat_map([[_shade(loss, low) for loss in row] for row in rows], depth) | {
        **colours,
        "customdata": [[_words(loss) for loss in row] for row in rows],
        "hovertemplate": _HOVER,
        "colorbar": colour_bar(_ticks(low, high)),
    }
    picture = map_layout(depth, row=28, top=44)
    if beside:
        edge = 1 - _COLUMN * len(beside)
        picture["xaxis"] |= {"domain": [0, edge - _GAP]}
        picture["xaxis2"] = axis(domain=[edge, 1], showgrid=False, zeroline=False)
        picture["yaxis2"] = axis(anchor="x2", showgrid=False, zeroline=False, showticklabels=False)
    return {"data": [inside, *([_outside(beside, low) | colours] if beside else [])], "layout": picture}


def _ticks(low: float, high: float) -> list[float]:
    """As many as a narrow window has room for."""
    found = log_ticks(low, high)
    tens = [tick for tick in found if f"{tick:e}".startswith("1.0")]
    return tens if len(found) > 4 and len(tens) > 1 else found


def _outside(beside: list[tuple[str, TensorLoss]], low: float) -> Figure:
    return {
        "type": "heatmap",
        "xaxis": "x2",
        "yaxis": "y2",
        "x": [title for title, _ in beside],
        "y": [""],
        "z": [[_shade(loss, low) for _, loss in beside]],
        "xgap": 2,
        "showscale": False,
        "customdata": [[_words(loss) for _, loss in beside]],
        "hovertemplate": _HOVER,
    }


def _shade(loss: TensorLoss | None, low: float) -> float | None:
    return None if loss is None else round(math.log10(max(low, loss.kld)), 4)


def _words(loss: TensorLoss | None) -> list[str]:
    return ["", "", ""] if loss is None else [plain(loss.name), significant(loss.kld), plain(loss.format)]
