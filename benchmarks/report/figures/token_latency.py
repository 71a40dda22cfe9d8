"""Single tokens: the distribution of their latency over raw samples, and how it runs over the steps of a generation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepress.benchmarks.records import BenchRecord
from edgepress.benchmarks.report.artifacts import Artifact
from edgepress.benchmarks.report.figures.theme import Figure, axis, layout, log_ticks, plain

_HEIGHT = 300
_HEADROOM = 1.6  # of the slowest median; what rises above is cut, and said


def latency_distribution(artifacts: tuple[Artifact, ...]) -> Figure | None:
    """Share of tokens at or below a latency, on a logarithmic axis; None where no speed was measured."""
    measured = [(artifact, np.sort(step_times(artifact.latency).ravel())) for artifact in artifacts if artifact.latency]
    if not measured:
        return None
    low, high = min(ms[0] for _, ms in measured), max(ms[-1] for _, ms in measured)
    ticks = log_ticks(low * 0.9, high * 1.1)
    traces = [_steps_up(artifact, ms) for artifact, ms in measured]
    x = axis(
        "latency of a token, ms",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:.3g}" for tick in ticks],
        range=[float(np.log10(low * 0.94)), float(np.log10(high * 1.06))],
    )
    y = axis("share of tokens, %", range=[0, 101], tickvals=[0, 25, 50, 75, 90, 99])
    return {"data": traces, "layout": layout(_HEIGHT, xaxis=x, yaxis=y)}


def latency_over_steps(artifacts: tuple[Artifact, ...]) -> Figure | None:
    """Every sample as a dot, and the median over repetitions at every step as a line."""
    measured = [(artifact, step_times(artifact.latency)) for artifact in artifacts if artifact.latency]
    if not measured:
        return None
    traces = [trace for artifact, ms in measured for trace in (_dots(artifact, ms), _median(artifact, ms))]
    x = axis("step of the generation", range=[0, 1 + max(ms.shape[1] for _, ms in measured)])
    y = axis("latency of a token, ms", range=[0, frame_ms([ms for _, ms in measured])])
    return {"data": traces, "layout": layout(_HEIGHT, xaxis=x, yaxis=y)}


def cut_words(artifacts: tuple[Artifact, ...]) -> str:
    """What the frame of :func:`latency_over_steps` cuts off, in words; empty when nothing."""
    measured = [step_times(artifact.latency) for artifact in artifacts if artifact.latency]
    if not measured:
        return ""
    frame = frame_ms(measured)
    above = sum(int((ms > frame).sum()) for ms in measured)
    if not above:
        return ""
    count, slowest = sum(ms.size for ms in measured), max(float(ms.max()) for ms in measured)
    return f"{above} of {count} tokens rise above the frame, the slowest took {slowest:,.0f} ms."


def step_times(latency: BenchRecord) -> NDArray[np.float64]:
    """Raw samples of the first depth, ms, (repetitions, steps)."""
    return np.array(latency.samples_token_ms, dtype=np.float64)


def frame_ms(measured: list[NDArray[np.float64]]) -> float:
    """Upper end of the latency axis: all medians fit, single spikes need not."""
    highest = max(float(np.median(ms, axis=0).max()) for ms in measured)
    return min(_HEADROOM * highest, 1.08 * max(float(ms.max()) for ms in measured))


def _steps_up(artifact: Artifact, ordered: NDArray[np.float64]) -> Figure:
    share = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
    title = plain(artifact.title)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _short(ordered),
        "y": _short(share),
        "customdata": [title] * len(ordered),
        "line": {"color": artifact.colour, "width": 2, "shape": "hv"},
        "hovertemplate": "<b>%{customdata}</b><br>%{y:.1f} % of tokens within %{x:.2f} ms<extra></extra>",
    }


def _dots(artifact: Artifact, ms: NDArray[np.float64]) -> Figure:
    repetitions, steps = ms.shape
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(range(1, steps + 1)) * repetitions,
        "y": _short(ms.ravel()),
        "marker": {"color": artifact.colour, "size": 3, "opacity": 0.35},
        "hoverinfo": "skip",
    }


def _median(artifact: Artifact, ms: NDArray[np.float64]) -> Figure:
    title = plain(artifact.title)
    return {
        "type": "scatter",
        "mode": "lines" if ms.shape[1] > 1 else "markers",
        "x": list(range(1, ms.shape[1] + 1)),
        "y": _short(np.median(ms, axis=0)),
        "customdata": [title] * ms.shape[1],
        "line": {"color": artifact.colour, "width": 1.6},
        "hovertemplate": "<b>%{customdata}</b><br>step %{x}: median %{y:.2f} ms<extra></extra>",
    }


def _short(values: NDArray[np.float64]) -> list[float]:
    """Five digits are more than a picture shows, and keep the page small."""
    return [float(f"{value:.5g}") for value in values]
