"""The model's shape, layer by layer: what the student had in grey, what is left of it in colour."""

from __future__ import annotations

from edgepress.artifact.spec import ModelSpec
from edgepress.benchmarks.report.figures.theme import GREY, Figure, axis, faded, layout
from edgepress.benchmarks.shape_record import ShapeRecord

_LEFT = "#3d82e0"
_PANELS = (
    ("ffn", "feed-forward", "y"),
    ("heads", "query heads", "y2"),
    ("kv_heads", "key heads", "y3"),
    ("hidden", "hidden width", "y4"),
)
_PANEL, _FRAME, _GAP = 92, 64, 0.08


def shape_map(record: ShapeRecord, left: ModelSpec) -> Figure | None:
    """Widths and heads of the student's layers and of those that are left; None where nothing was removed.

    Args:
        record: of the student's shape.
        left: the model that was quantized.
    """
    if left.layers == record.layers and left.hidden == record.hidden:
        return None
    panels = [panel for panel in _PANELS if _changed(record, left, panel[0])]
    height = (1 + _GAP) / len(panels)
    data: list[Figure] = []
    axes: Figure = {}
    for place, (field, title, name) in enumerate(panels):
        before, after = _values(record, field), _values(left, field)
        data += [
            _bars(list(range(len(before))), before, faded(GREY, 0.25), name, f"student, {title}"),
            _bars(list(record.places), after, _LEFT, name, f"left, {title}"),
        ]
        top = 1 - place * height
        axes[name.replace("y", "yaxis")] = axis(title, domain=[max(0, top - height + _GAP), top], rangemode="tozero")
    picture = layout(_FRAME + _PANEL * len(panels), barmode="overlay", bargap=0.15) | axes
    picture["xaxis"] = axis("layer of the student", showgrid=False, zeroline=False, anchor=panels[-1][2])
    return {"data": data, "layout": picture}


def _values(model: ShapeRecord | ModelSpec, field: str) -> list[int]:
    """A number of each layer; the hidden width is that of all."""
    return [model.hidden if field == "hidden" else getattr(layer, field) for layer in model.layers]


def _changed(record: ShapeRecord, left: ModelSpec, field: str) -> bool:
    """Whether a panel would show more than its neighbours: the feed-forward's always, others where widths differ."""
    before = _values(record, field)
    return field == "ffn" or [before[place] for place in record.places] != _values(left, field)


def _bars(places: list[int], values: list[int], colour: str, axis_name: str, title: str) -> Figure:
    return {
        "type": "bar",
        "x": places,
        "y": values,
        "yaxis": axis_name,
        "marker": {"color": colour, "line": {"width": 0}},
        "hovertemplate": f"<b>layer %{{x}}</b><br>{title} %{{y}}<extra></extra>",
    }
