"""Memory of the process at its peak, in the parts that matter for fitting a device, and the file's size beside it.

Private memory cannot be taken back by the kernel; file pages can be dropped and read again. The KV cache is private and
drawn apart where it is no larger than all private memory (it may lie on another device).
"""

from __future__ import annotations

import msgspec

from edgepress.benchmarks.records import PeakMemory
from edgepress.benchmarks.report.artifacts import Artifact
from edgepress.benchmarks.report.figures.theme import GREY, Figure, axis, faded, layout, plain, tick_name
from edgepress.benchmarks.report.numerals import megabytes

_ROW, _FRAME = 48, 62
# Opacity of a part in its artifact's colour.
_OPACITY = {"KV cache": 1.0, "other private memory": 0.7, "file pages": 0.35, "not split": 0.15}


class Part(msgspec.Struct, frozen=True):
    """A named part of a peak."""

    name: str
    bytes: int


def peak_parts(memory: PeakMemory) -> tuple[Part, ...]:
    """A peak in parts that sum to it, or to the snapshot where that is larger."""
    private, pages, cache = memory.peak_anonymous_bytes, memory.peak_file_bytes, memory.engine_kv_cache_bytes
    if private is None or pages is None:
        return (Part("not split", memory.peak_rss_bytes),)
    apart = cache if cache <= private else 0
    rest = max(0, memory.peak_rss_bytes - private - pages)
    found = (
        Part("KV cache", apart),
        Part("other private memory", private - apart),
        Part("file pages", pages),
        Part("not split", rest),
    )
    return tuple(part for part in found if part.bytes)


def memory_legend() -> list[tuple[str, str]]:
    """Names of the parts, and each one's shade in grey."""
    return [(name, faded(GREY, opacity)) for name, opacity in _OPACITY.items()]


def memory_parts(artifacts: tuple[Artifact, ...]) -> Figure | None:
    """Stacked bars, and a tick for the file; None where no memory was measured."""
    rows = [(artifact, peak_parts(artifact.latency.memory)) for artifact in artifacts if artifact.latency]
    if not rows:
        return None
    names = [plain(artifact.title) for artifact, _ in rows]
    totals = [sum(part.bytes for part in parts) for _, parts in rows]
    reach = 1.05 * max(*totals, *(artifact.file_bytes for artifact, _ in rows)) / 1e6
    traces = [_stack(name, rows, names) for name in _OPACITY]
    return {
        "data": [*traces, _file_ticks([artifact for artifact, _ in rows], names)],
        "layout": layout(
            _FRAME + _ROW * len(rows),
            left=96,
            right=76,
            barmode="stack",
            bargap=0.45,
            xaxis=axis("resident memory, MB", range=[0, reach], nticks=7),
            yaxis=axis(
                tickvals=list(range(len(rows))),
                ticktext=[tick_name(artifact.title) for artifact, _ in rows],
                range=[len(rows) - 0.5, -0.5],
                showgrid=False,
                zeroline=False,
            ),
            annotations=[_total(place, total) for place, total in enumerate(totals)],
        ),
    }


def _stack(part_name: str, rows: list[tuple[Artifact, tuple[Part, ...]]], names: list[str]) -> Figure:
    found = [next((part.bytes for part in parts if part.name == part_name), 0) for _, parts in rows]
    return {
        "type": "bar",
        "orientation": "h",
        "x": [count / 1e6 for count in found],
        "y": list(range(len(rows))),
        "marker": {
            "color": [faded(artifact.colour, _OPACITY[part_name]) for artifact, _ in rows],
            "line": {"width": 0},
        },
        "customdata": [[name, part_name, megabytes(count)] for name, count in zip(names, found, strict=True)],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}: %{customdata[2]}<extra></extra>",
    }


def _file_ticks(artifacts: list[Artifact], names: list[str]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [artifact.file_bytes / 1e6 for artifact in artifacts],
        "y": list(range(len(artifacts))),
        "marker": {"symbol": "line-ns-open", "size": 34, "color": GREY, "line": {"width": 2.5, "color": GREY}},
        "customdata": [[name, megabytes(artifact.file_bytes)] for name, artifact in zip(names, artifacts, strict=True)],
        "hovertemplate": "<b>%{customdata[0]}</b><br>file: %{customdata[1]}<extra></extra>",
    }


def _total(place: int, total: int) -> Figure:
    return {
        "xref": "paper",
        "x": 1,
        "y": place,
        "xanchor": "left",
        "xshift": 6,
        "showarrow": False,
        "text": f"<b>{megabytes(total)}</b>",
        "font": {"size": 13},
    }
