"""Rates: a bar to the median, every repetition as a point on it, the 95 % interval of the mean as a whisker."""

from __future__ import annotations

from typing import Literal, NamedTuple

from edgepress.benchmarks.records import BenchRecord, DepthRecord, Spread
from edgepress.benchmarks.report.artifacts import Artifact
from edgepress.benchmarks.report.figures.theme import GREY, Figure, axis, faded, layout, plain, tick_name
from edgepress.benchmarks.report.numerals import interval, rate, whole
from edgepress.benchmarks.report.tables import depth_title

Phase = Literal["decode", "prefill"]
_ROW, _FRAME = 46, 62
_HOVER = (
    "<b>%{customdata[0]}</b><br>median %{customdata[1]} tokens/s"
    "<br>95 % interval of the mean %{customdata[2]}<extra></extra>"
)


class _Bar(NamedTuple):
    """One artifact at one depth, tokens/s."""

    name: str
    tick: str
    colour: str
    median: float
    spread: Spread
    samples: list[float]


def rates(artifacts: tuple[Artifact, ...], phase: Phase) -> Figure | None:
    """Decode or prefill rates of every artifact and depth; None where no speed was measured."""
    bars = [
        _bar(artifact, artifact.latency, depth, phase)
        for artifact in artifacts
        if artifact.latency
        for depth in artifact.latency.depths
    ]
    if not bars:
        return None
    places = list(range(len(bars)))
    reach = 1.06 * max(max(bar.samples) for bar in bars)
    return {
        "data": [_medians(bars), _whiskers(bars), *_repetitions(bars)],
        "layout": layout(
            _FRAME + _ROW * len(bars),
            left=96,
            right=18 + 8 * max(len(rate(bar.median)) for bar in bars),
            bargap=0.45,
            xaxis=axis(f"{phase}, tokens/s", range=[0, reach], nticks=6),
            yaxis=axis(
                tickvals=places,
                ticktext=[bar.tick for bar in bars],
                range=[len(bars) - 0.5, -0.5],
                showgrid=False,
                zeroline=False,
            ),
            annotations=[_value(place, bar.median) for place, bar in enumerate(bars)],
        ),
    }


def _bar(artifact: Artifact, latency: BenchRecord, depth: DepthRecord, phase: Phase) -> _Bar:
    name, tick = plain(depth_title(artifact, depth)), tick_name(artifact.title)
    if len(latency.depths) > 1:
        tick += f"<br>{whole(depth.depth)} in cache"
    if phase == "decode":
        samples = [1e3 * len(steps) / sum(steps) for steps in depth.samples_token_ms]
        return _Bar(name, tick, artifact.colour, depth.decode_tokens_per_s, depth.decode_tokens_per_s_spread, samples)
    samples = [1e3 * latency.scenario.prompt / sample for sample in depth.samples_prefill_ms]
    return _Bar(name, tick, artifact.colour, depth.prefill_tokens_per_s, depth.prefill_tokens_per_s_spread, samples)


def _medians(bars: list[_Bar]) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "x": [bar.median for bar in bars],
        "y": list(range(len(bars))),
        "customdata": [[bar.name, rate(bar.median), interval(bar.spread.low95, bar.spread.high95)] for bar in bars],
        "hovertemplate": _HOVER,
        "marker": {"color": [faded(bar.colour, 0.55) for bar in bars], "line": {"width": 0}},
    }


def _whiskers(bars: list[_Bar]) -> Figure:
    """Around the mean, which is not quite the median; none where a single repetition gives no interval."""
    spreads = [(place, bar.spread) for place, bar in enumerate(bars)]
    known = [(place, s.mean, s.low95, s.high95) for place, s in spreads if s.low95 is not None and s.high95 is not None]
    error = {
        "symmetric": False,
        "array": [high - mean for _, mean, _, high in known],
        "arrayminus": [mean - low for _, mean, low, _ in known],
        "color": GREY,
        "thickness": 1.5,
        "width": 6,
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [mean for _, mean, _, _ in known],
        "y": [place for place, *_ in known],
        "error_x": error,
        "marker": {"size": 1, "color": GREY},
        "hoverinfo": "skip",
    }


def _repetitions(bars: list[_Bar]) -> list[Figure]:
    """Every repetition, a little below the bar's middle so that the whisker stays readable."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": bar.samples,
            "y": [place + 0.16] * len(bar.samples),
            "marker": {"size": 5, "color": bar.colour},
            "hovertemplate": "%{x:.4g} tokens/s<extra>one repetition</extra>",
        }
        for place, bar in enumerate(bars)
    ]


def _value(place: int, value: float) -> Figure:
    """The median at the right edge, in a column."""
    return {
        "xref": "paper",
        "x": 1,
        "y": place,
        "xanchor": "left",
        "xshift": 6,
        "showarrow": False,
        "text": f"<b>{rate(value)}</b>",
        "font": {"size": 13},
    }
