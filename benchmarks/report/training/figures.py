"""The course of a training: the loss of every step with its running mean, and what the judge says on held-out text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepress.benchmarks.report.figures.theme import GREY, Figure, axis, faded, layout
from edgepress.benchmarks.report.numerals import significant
from edgepress.benchmarks.training_record import TrainingRecord

COLOUR = "#2466c4"
_HEIGHT = 300
_SMOOTHED = 40  # spans of the running mean in a run
_LOG_RANGE = 8.0  # between the greatest and the least value, from which on an axis is logarithmic


def loss_curve(record: TrainingRecord) -> Figure:
    """Training loss by tokens: a dot for every step, a line for the running mean."""
    x = [record.step_tokens * (step + 1) for step in range(len(record.losses))]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": list(record.losses),
        "customdata": [significant(loss) for loss in record.losses],
        "marker": {"color": faded(COLOUR, 0.3), "size": 4},
        "hovertemplate": "after %{x:,} tokens: %{customdata} nats<extra></extra>",
    }
    mean = running_mean(np.array(record.losses), max(1, len(record.losses) // _SMOOTHED))
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": mean.tolist(),
        "line": {"color": COLOUR, "width": 2},
        "hoverinfo": "skip",
    }
    return _drawn([dots, line], list(record.losses), "loss, nats per token")


def held_out_curve(record: TrainingRecord) -> Figure:
    """Held-out divergence, or cross-entropy, by tokens; a ring around the state that the student is."""
    values = [check.held_out for check in record.checks]
    curve = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [check.tokens for check in record.checks],
        "y": values,
        "customdata": [significant(value) for value in values],
        "line": {"color": COLOUR, "width": 2},
        "marker": {"color": COLOUR, "size": 7},
        "hovertemplate": "after %{x:,} tokens: %{customdata} nats<extra></extra>",
    }
    best = {
        "type": "scatter",
        "mode": "markers",
        "x": [record.taken.tokens],
        "y": [record.taken.held_out],
        "marker": {"color": GREY, "size": 16, "symbol": "circle-open", "line": {"width": 2}},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }
    judged_by = "KLD" if record.judge == "kl" else "cross-entropy"
    return _drawn([curve, best], values, f"held-out {judged_by}, nats per token")


def running_mean(values: NDArray[np.float64], span: int) -> NDArray[np.float64]:
    """The mean of each value and up to ``span`` before and ``span`` behind it, (values,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - span, 0), np.minimum(places + span + 1, len(values))
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means


def _drawn(traces: list[Figure], values: list[float], title: str) -> Figure:
    positive = min(values) > 0
    kind = {"type": "log", "dtick": "D2"} if positive and max(values) > _LOG_RANGE * min(values) else {}
    x = axis("tokens trained on", showgrid=False, zeroline=False, rangemode="tozero")
    return {"data": traces, "layout": layout(_HEIGHT, left=64, xaxis=x, yaxis=axis(title, zeroline=False, **kind))}
