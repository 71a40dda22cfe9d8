"""Divergence window by window: which pieces of the text are hard, and where the standard error comes from."""

from __future__ import annotations

from edgepress.benchmarks.report.artifacts import Artifact
from edgepress.benchmarks.report.figures.theme import Figure, axis, faded, layout, plain
from edgepress.benchmarks.report.numerals import significant

_HEIGHT = 260


def kld_by_window(artifacts: tuple[Artifact, ...]) -> Figure | None:
    """Mean divergence of each window; None where there are fewer than two."""
    measured = [(artifact, artifact.quality.window_kld) for artifact in artifacts if artifact.quality]
    traces = [_trace(artifact, values, place) for place, (artifact, values) in enumerate(measured)]
    if not traces or max(len(trace["x"]) for trace in traces) < 2:
        return None
    whole_numbers = {"dtick": 1} if max(len(trace["x"]) for trace in traces) <= 20 else {"nticks": 12}
    x = axis("window of the text", showgrid=False, zeroline=False, **whole_numbers)
    y = axis("mean KLD, nats", rangemode="tozero")
    return {"data": traces, "layout": layout(_HEIGHT, left=60, xaxis=x, yaxis=y)}


def _trace(artifact: Artifact, values: tuple[float, ...], place: int) -> Figure:
    """Later files get smaller marks, so that those of equal ones do not hide each other."""
    title = plain(artifact.title)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(range(1, len(values) + 1)),
        "y": [float(f"{value:.5g}") for value in values],
        "customdata": [[title, significant(value)] for value in values],
        "line": {"color": faded(artifact.colour, 0.45), "width": 1},
        "marker": {"color": artifact.colour, "symbol": artifact.symbol, "size": max(5, 11 - 2 * place)},
        "hovertemplate": "<b>%{customdata[0]}</b><br>window %{x}: %{customdata[1]} nats<extra></extra>",
    }
