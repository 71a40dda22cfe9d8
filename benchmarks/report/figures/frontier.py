"""The search for formats as traces beside the measured files: its predicted frontier, and what it chose and tried.

All of it is the search's own: divergences on held-out calibration text, of weights before the final solve.
"""

from __future__ import annotations

from edgepress.benchmarks.report.contents import FormatSearch
from edgepress.benchmarks.report.figures.theme import GREY, Figure
from edgepress.benchmarks.report.numerals import megabytes, significant

_FLAT = 0.15  # of the frame's height
LABEL = "predicted frontier of this search"
_HOVER = "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>KLD %{customdata[2]} nats<extra></extra>"


def highest_of(search: FormatSearch | None) -> float:
    """The greatest divergence that must be in sight; the frontier itself may leave the frame."""
    return max(search.predicted_kld, search.tried_kld, *search.random_kld) if search and search.frontier else 0.0


def label_point(search: FormatSearch | None, top: float) -> tuple[float, float] | None:
    """Where the frontier's name goes, in MB and nats: into the bend of the line, above its flat end."""
    points = [point for point in search.frontier if point.predicted_kld <= top] if search else []
    if not points:
        return None
    steep = [point for point in points if point.predicted_kld > _FLAT * top] or points
    return steep[-1].file_bytes / 1e6, steep[-1].predicted_kld


def search_traces(search: FormatSearch | None) -> list[Figure]:
    """A dotted line; the chosen formats as predicted and as tried; random formats of the same bytes."""
    if search is None or not search.frontier:
        return []
    chosen = search.used_bytes + search.other_bytes
    line = _trace(LABEL, [(point.file_bytes, point.predicted_kld) for point in search.frontier])
    line |= {"mode": "lines+markers", "line": {"color": GREY, "width": 1.5, "dash": "dot"}}
    line |= {"marker": {"color": GREY, "size": 3}, "cliponaxis": True}
    kinds = (
        ("formats chosen, as predicted", [search.predicted_kld], "circle-open", 14),
        ("formats chosen, as tried", [search.tried_kld], "cross-thin-open", 11),
        ("random formats of the same bytes, as tried", list(search.random_kld), "x-thin-open", 7),
    )
    return [line] + [
        _trace(name, [(chosen, kld) for kld in klds])
        | {"mode": "markers", "marker": {"color": GREY, "symbol": symbol, "size": size, "line": {"width": 1.5}}}
        for name, klds, symbol, size in kinds
    ]


def _trace(name: str, points: list[tuple[int, float]]) -> Figure:
    return {
        "type": "scatter",
        "name": name,
        "x": [size / 1e6 for size, _ in points],
        "y": [kld for _, kld in points],
        "customdata": [[name, megabytes(size), significant(kld)] for size, kld in points],
        "hovertemplate": _HOVER,
        "cliponaxis": False,
    }
