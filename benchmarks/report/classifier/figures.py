"""Confusion matrices, how far probabilities can be believed, and the held-out divergence of a training."""

from __future__ import annotations

from collections.abc import Sequence

from edgepress.benchmarks.classification import Scores
from edgepress.benchmarks.label_record import ClassifierRecord
from edgepress.benchmarks.report.figures.theme import GREY, Figure, axis, layout, tick_name
from edgepress.benchmarks.report.numerals import significant

COLOURS = {"uncalibrated": "#b0803a", "teacher": "#7d858f", "student": "#2466c4"}
_HEIGHT = 300
_CELL = 64
_FEW_TO_MANY = [[0, "rgba(36,102,196,0.04)"], [1, "rgba(36,102,196,0.85)"]]


def confusion_figure(scores: Scores, labels: Sequence[str]) -> Figure:
    """Texts by gold label (rows) and told label (columns), shaded by the share of the row."""
    names = [tick_name(label) for label in labels]
    shares = [[count / max(1, sum(row)) for count in row] for row in scores.confusion]
    heat = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": shares,
        "zmin": 0,
        "zmax": 1,
        "colorscale": _FEW_TO_MANY,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "text": [[f"{count:,}" for count in row] for row in scores.confusion],
        "texttemplate": "%{text}",
        "hovertemplate": "gold %{y}, told %{x}: %{text}<extra></extra>",
    }
    height = _CELL * len(names) + 80
    x = axis("told", side="bottom", showgrid=False, type="category")
    y = axis("gold", autorange="reversed", showgrid=False, type="category")
    return {"data": [heat], "layout": layout(height, left=110, xaxis=x, yaxis=y)}


def calibration_figure(gold: dict[str, Scores]) -> Figure:
    """Share of right labels by the probability of the likeliest one; on the line they are the same."""
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 1],
        "y": [0, 1],
        "line": {"color": GREY, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    curves = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [each.confidence for each in gold[name].bins],
            "y": [each.accuracy for each in gold[name].bins],
            "customdata": [each.texts for each in gold[name].bins],
            "line": {"color": colour, "width": 2},
            "marker": {"color": colour, "size": 7},
            "hovertemplate": name + ": %{customdata} texts at %{x:.2f}, %{y:.2f} right<extra></extra>",
        }
        for name, colour in COLOURS.items()
        if name in gold
    ]
    x = axis("probability of the likeliest label", zeroline=False, range=[0, 1])
    y = axis("share right", zeroline=False, range=[0, 1])
    return {"data": [line, *curves], "layout": layout(_HEIGHT, left=64, xaxis=x, yaxis=y)}


def course_figure(record: ClassifierRecord) -> Figure:
    """Held-out divergence by texts trained on; a ring around the state that the student is."""
    values = [check.held_out_kl for check in record.checks]
    curve = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [check.texts for check in record.checks],
        "y": values,
        "customdata": [significant(value) for value in values],
        "line": {"color": COLOURS["student"], "width": 2},
        "marker": {"color": COLOURS["student"], "size": 7},
        "hovertemplate": "after %{x:,} texts: %{customdata} nats<extra></extra>",
    }
    best = {
        "type": "scatter",
        "mode": "markers",
        "x": [record.taken.texts],
        "y": [record.taken.held_out_kl],
        "marker": {"color": GREY, "size": 16, "symbol": "circle-open", "line": {"width": 2}},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }
    x = axis("texts trained on", showgrid=False, zeroline=False, rangemode="tozero")
    return {
        "data": [curve, best],
        "layout": layout(_HEIGHT, left=64, xaxis=x, yaxis=axis("held-out KLD, nats per text", zeroline=False)),
    }
