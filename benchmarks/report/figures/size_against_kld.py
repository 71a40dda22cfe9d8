"""Size against loss: one point per file, nearer to the lower left corner is better. Both axes start at zero."""

from __future__ import annotations

from edgepress.benchmarks.records import QualityRecord
from edgepress.benchmarks.report.artifacts import Artifact
from edgepress.benchmarks.report.contents import FormatSearch
from edgepress.benchmarks.report.figures.frontier import LABEL, highest_of, label_point, search_traces
from edgepress.benchmarks.report.figures.label_places import place_labels
from edgepress.benchmarks.report.figures.theme import GREY, Figure, axis, layout, plain
from edgepress.benchmarks.report.intervals import interval_factor
from edgepress.benchmarks.report.numerals import megabytes, plus_minus

_HEIGHT = 360
_NARROW = (280.0, 290.0)  # the frame at 420 px, to place labels in
_HOVER = "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>KLD %{customdata[2]} nats<br>%{customdata[3]}<extra></extra>"


def size_against_kld(
    artifacts: tuple[Artifact, ...], fp16_bytes: int, search: FormatSearch | None = None
) -> Figure | None:
    """The scatter; None where no quality was measured. Bars are 95 % intervals, the dotted upright the fp16 weights;
    behind the points lies what a search for formats predicted.
    """
    measured = [(artifact, artifact.quality) for artifact in artifacts if artifact.quality]
    if not measured:
        return None
    right = 1.14 * max(fp16_bytes, *(quality.file_bytes for _, quality in measured)) / 1e6
    top = 1.12 * max(1e-6, highest_of(search), *(quality.kld_mean + half_interval(quality) for _, quality in measured))
    bottom = min(-0.02 * top, *(quality.kld_mean - half_interval(quality) for _, quality in measured))
    named = [(quality.file_bytes / 1e6, quality.kld_mean, artifact.title) for artifact, quality in measured]
    frontier = label_point(search, top)
    named += [(*frontier, LABEL)] if frontier else []
    points = [_pixels(size_mb, kld, right, bottom, top) for size_mb, kld, _ in named]
    places = place_labels(points, [title for *_, title in named], _NARROW)
    traces = [_point(artifact, quality, at) for (artifact, quality), at in zip(measured, places, strict=False)]
    name = [_name(*frontier, places[-1])] if frontier else []
    return {
        "data": [*traces, *search_traces(search), *name],
        "layout": layout(
            _HEIGHT,
            left=64,
            xaxis=axis("file size, MB", range=[0, right]),
            yaxis=axis("mean KL divergence to the student, nats", range=[bottom, top]),
            shapes=[_fp16_line(fp16_bytes / 1e6)],
            annotations=[_fp16_label(fp16_bytes)],
        ),
    }


def half_interval(quality: QualityRecord) -> float:
    """Half of the mean divergence's 95 % interval."""
    return quality.kld_se * interval_factor(quality)


def _pixels(size_mb: float, kld: float, right: float, bottom: float, top: float) -> tuple[float, float]:
    width, height = _NARROW
    return width * size_mb / right, height * (top - kld) / (top - bottom)


def _name(size_mb: float, kld: float, place: str) -> Figure:
    """The frontier's name, at a point of it."""
    text = {"mode": "text", "text": [LABEL], "textposition": place, "textfont": {"size": 12, "color": GREY}}
    return {"type": "scatter", "x": [size_mb], "y": [kld], "hoverinfo": "skip", "cliponaxis": False} | text


def _point(artifact: Artifact, quality: QualityRecord, place: str) -> Figure:
    agreement = f"same next token {plus_minus(quality.top1_agreement, quality.top1_se, 100)} %"
    divergence = plus_minus(quality.kld_mean, quality.kld_se)
    title = plain(artifact.title)
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [quality.file_bytes / 1e6],
        "y": [quality.kld_mean],
        "text": [title],
        "textposition": place,
        "textfont": {"size": 13},
        "customdata": [[title, megabytes(quality.file_bytes), divergence, agreement]],
        "hovertemplate": _HOVER,
        "cliponaxis": False,
        "marker": {"color": artifact.colour, "symbol": artifact.symbol, "size": 11, "line": {"width": 2}},
        "error_y": {"array": [half_interval(quality)], "color": artifact.colour, "thickness": 1.5, "width": 5},
    }


def _fp16_line(size_mb: float) -> Figure:
    line = {"color": GREY, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": size_mb, "x1": size_mb, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _fp16_label(size: int) -> Figure:
    return {
        "x": size / 1e6,
        "yref": "paper",
        "y": 1,
        "xanchor": "right",
        "yanchor": "top",
        "showarrow": False,
        "align": "right",
        "text": f"fp16 weights<br>{megabytes(size)} ",
    }
