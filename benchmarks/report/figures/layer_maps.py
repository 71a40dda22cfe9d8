"""Layer × role as pictures: how much each matrix lost, and what format it ships in."""

from __future__ import annotations

import math
from typing import TypeVar

from edgepress.artifact.families import EMBEDDING, HEAD, LAYER, LINEARS, layer_name
from edgepress.artifact.plan import TensorPlan
from edgepress.benchmarks.report.contents import TensorError
from edgepress.benchmarks.report.figures.theme import Figure, axis, layout, log_ticks, plain
from edgepress.benchmarks.report.numerals import significant
from edgepress.benchmarks.report.tables import format_rank

Value = TypeVar("Value")
Grid = list[list[Value]]  # [role][layer]

_FRAME = 46
_LEFT = 84
COLD_TO_HOT = [[0, "#35507a"], [0.35, "#7f8fa6"], [0.6, "#c9b79b"], [0.8, "#e39a4f"], [1, "#c8452f"]]
# From few bits to many; a page that uses fewer formats takes them spread out.
_FORMAT_COLOURS = ("#b9d3f2", "#7fb0ea", "#3d82e0", "#2f5fb3", "#6a4fa3", "#9a4d8f", "#c2605f", "#d68a1e")
_ROLES = tuple(LINEARS)
_SMALLEST = 1e-12


def depth_of(tensors: tuple[TensorPlan, ...]) -> int:
    """Number of layers, from the tensors' names."""
    prefix = LAYER.partition("{")[0]
    return len({tensor.name.split(".")[2] for tensor in tensors if tensor.name.startswith(prefix)})


def error_map(errors: tuple[TensorError, ...], depth: int) -> Figure | None:
    """Relative error of every matrix, logarithmic colours; None where nothing was quantized inside the layers."""
    rows = grid({error.name: error for error in errors}, depth)
    found = [error.relative_error for row in rows for error in row if error]
    if not found:
        return None
    low, high = max(_SMALLEST, min(found)), max(_SMALLEST, *found)
    ticks = log_ticks(low, high)
    heat = heat_map([[_log10(error) for error in row] for row in rows], depth) | {
        "colorscale": COLD_TO_HOT,
        "zmin": math.log10(low) - 1e-3,
        "zmax": math.log10(high) + 1e-3,
        "customdata": [[_words(error) for error in row] for row in rows],
        "hovertemplate": "<b>layer %{x} %{y}</b><br>relative error %{customdata[0]}<br>%{customdata[1]}<extra></extra>",
        "colorbar": colour_bar(ticks),
    }
    return {"data": [heat], "layout": map_layout(depth, row=28, top=44)}


def format_map(tensors: tuple[TensorPlan, ...], depth: int) -> Figure | None:
    """Format of every matrix; None for a model without layers."""
    rows = grid({tensor.name: tensor for tensor in tensors}, depth)
    names = sorted({tensor.format for row in rows for tensor in row if tensor}, key=format_rank)
    if not names:
        return None
    place, colours = {name: at for at, name in enumerate(names)}, format_colours(tensors)
    heat = heat_map([[place[tensor.format] if tensor else None for tensor in row] for row in rows], depth) | {
        "colorscale": _steps([colours[name] for name in names]),
        "zmin": -0.5,
        "zmax": len(names) - 0.5,
        "showscale": False,
        "customdata": [[plain(tensor.format) if tensor else "" for tensor in row] for row in rows],
        "hovertemplate": "<b>layer %{x} %{y}</b><br>%{customdata}<extra></extra>",
    }
    return {"data": [heat], "layout": map_layout(depth, row=18, top=6)}


def format_colours(tensors: tuple[TensorPlan, ...]) -> dict[str, str]:
    """A colour per format, from few bits to many."""
    names = sorted({tensor.format for tensor in tensors}, key=format_rank)
    last = max(1, len(names) - 1)
    reach = min(len(_FORMAT_COLOURS) - 1, 2 * last)
    return {name: _FORMAT_COLOURS[min(reach, round(at * reach / last) + (last == 1))] for at, name in enumerate(names)}


def outside(errors: tuple[TensorError, ...]) -> tuple[tuple[str, TensorError], ...]:
    """Embedding and head, which are no part of a layer, by what to call them."""
    names = {EMBEDDING: "the embedding", HEAD: "the head"}
    return tuple((names[error.name], error) for error in errors if error.name in names)


def worst(errors: tuple[TensorError, ...], count: int) -> tuple[TensorError, ...]:
    """The tensors that lost most."""
    return tuple(sorted(errors, key=lambda error: (-error.relative_error, error.name))[:count])


def grid(by_name: dict[str, Value], depth: int) -> list[list[Value | None]]:
    """Values by matrix as rows of roles and columns of layers."""
    return [[by_name.get(layer_name(layer, LINEARS[role])) for layer in range(depth)] for role in _ROLES]


def _log10(error: TensorError | None) -> float | None:
    return None if error is None else round(math.log10(max(_SMALLEST, error.relative_error)), 4)


def _words(error: TensorError | None) -> list[str]:
    return ["", ""] if error is None else [significant(error.relative_error), plain(error.format)]


def heat_map(values: Grid[float | None] | Grid[int | None], depth: int) -> Figure:
    """A trace with a cell for every layer and role."""
    return {
        "type": "heatmap",
        "x": list(range(depth)),
        "y": list(_ROLES),
        "z": values,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
    }


def map_layout(depth: int, row: int, top: int) -> Figure:
    """Layers to the right, roles downwards; ``row`` and ``top`` in pixels."""
    return layout(
        _FRAME + top + row * len(_ROLES),
        left=_LEFT,
        top=top,
        xaxis=axis("layer", showgrid=False, zeroline=False, dtick=1 if depth <= 12 else 5, tick0=0),
        yaxis=axis(autorange="reversed", showgrid=False, zeroline=False),
    )


def colour_bar(ticks: list[float]) -> Figure:
    """A bar above the map, of logarithmic colours."""
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 1.02,
        "yanchor": "bottom",
        "len": 0.8,
        "thickness": 9,
        "ypad": 0,
        "xpad": 0,
        "outlinewidth": 0,
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [significant(tick, 1 if len(ticks) > 2 else 2) for tick in ticks],
        "ticks": "",
        "tickangle": 0,
        "tickfont": {"size": 11},
    }


def _steps(colours: list[str]) -> list[list[object]]:
    """A colour scale of plateaus."""
    width = 1 / len(colours)
    return [[at, colour] for i, colour in enumerate(colours) for at in (i * width, (i + 1) * width)]
