"""The course of a training against a discriminator: of every step, and on held-out prompts."""

from __future__ import annotations

import numpy as np

from edgepress.benchmarks.gad_record import GadRecord
from edgepress.benchmarks.report.figures.theme import GREY, Figure, axis, faded, layout
from edgepress.benchmarks.report.numerals import plus_minus, significant
from edgepress.benchmarks.report.training.figures import COLOUR, running_mean

OTHER = "#c46a24"
_HEIGHT = 300
_SMOOTHED = 40  # spans of the running mean in a run


def win_rate_curve(record: GadRecord) -> Figure:
    """The judge's win rate with standard errors; a ring around the state that the student is."""
    checks, kept = record.checks, record.kept
    curve = {
        **_line([check.step for check in checks], [check.win_rate for check in checks], COLOUR),
        "customdata": [plus_minus(check.win_rate, check.win_rate_se) for check in checks],
        "error_y": {"type": "data", "array": [check.win_rate_se for check in checks], "color": faded(COLOUR, 0.5)},
    }
    ring = {
        "type": "scatter",
        "mode": "markers",
        "x": [kept.step],
        "y": [kept.win_rate],
        "marker": {"color": GREY, "size": 16, "symbol": "circle-open", "line": {"width": 2}},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }
    return _drawn([curve, ring, _half(record)], "judge's win rate")


def accuracy_curve(record: GadRecord) -> Figure:
    """How often the discriminator tells the teacher's answer on held-out prompts."""
    checks = record.checks
    curve = _line([check.step for check in checks], [check.accuracy for check in checks], COLOUR)
    return _drawn([curve, _half(record)], "discriminator's accuracy")


def diversity_curve(record: GadRecord) -> Figure:
    """Distinct bigrams and self-BLEU."""
    steps = [check.step for check in record.checks]
    distinct = _line(steps, [check.distinct for check in record.checks], COLOUR)
    alike = _line(steps, [check.self_bleu for check in record.checks], OTHER)
    return _drawn([distinct, alike], "distinct bigrams, self-BLEU")


def reward_curve(record: GadRecord) -> Figure:
    """The reward of every step with its running mean."""
    steps = list(range(1, len(record.steps) + 1))
    return _dotted(steps, [step.reward for step in record.steps], "reward")


def kl_curve(record: GadRecord) -> Figure:
    """Divergence from the warmed-up student, where the student was trained."""
    known = [(place + 1, step.kl) for place, step in enumerate(record.steps) if step.kl is not None]
    return _dotted([place for place, _ in known], [value for _, value in known], "KL from the start, nats per token")


def _line(x: list[int], y: list[float], colour: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": y,
        "customdata": [significant(value) for value in y],
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 7},
        "hovertemplate": "after step %{x:,}: %{customdata}<extra></extra>",
    }


def _half(record: GadRecord) -> Figure:
    """Where nothing can be told apart."""
    last = max(len(record.steps), 1)
    line = {"color": GREY, "width": 1, "dash": "dot"}
    return {"type": "scatter", "mode": "lines", "x": [0, last], "y": [0.5, 0.5], "line": line, "hoverinfo": "skip"}


def _dotted(x: list[int], y: list[float], title: str) -> Figure:
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "customdata": [significant(value) for value in y],
        "marker": {"color": faded(COLOUR, 0.3), "size": 4},
        "hovertemplate": "step %{x:,}: %{customdata}<extra></extra>",
    }
    mean = running_mean(np.array(y), max(1, len(y) // _SMOOTHED)).tolist()
    line = {"type": "scatter", "mode": "lines", "x": x, "y": mean, "line": {"color": COLOUR, "width": 2}}
    return _drawn([dots, line | {"hoverinfo": "skip"}], title)


def _drawn(traces: list[Figure], title: str) -> Figure:
    x = axis("steps", showgrid=False, zeroline=False, rangemode="tozero")
    return {"data": traces, "layout": layout(_HEIGHT, left=64, xaxis=x, yaxis=axis(title, zeroline=False))}
