"""What all figures share: type, greys, margins, axes."""

from __future__ import annotations

import html
from typing import Any

Figure = dict[str, Any]

GREY = "#7d858f"
_TICK_LETTERS = 14
_LINE = "rgba(125,133,143,0.25)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Nothing to click: the page scrolls under the finger, hovering tells the numbers.
CONFIG = {"displayModeBar": False, "responsive": True, "scrollZoom": False, "doubleClick": False}


def plain(text: str) -> str:
    """Foreign text for a figure: plotly reads a subset of HTML."""
    return html.escape(text, quote=False)


def tick_name(text: str) -> str:
    """Foreign text beside an axis, cut to what the margin holds; hovering and the tables have all of it."""
    return plain(text if len(text) <= _TICK_LETTERS else f"{text[: _TICK_LETTERS - 1]}…")


def faded(colour: str, opacity: float) -> str:
    """``#rrggbb`` as rgba."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def layout(height: int, *, left: int = 52, right: int = 14, top: int = 12, bottom: int = 44, **parts: Any) -> Figure:
    """A layout with the theme's defaults; margins in pixels."""
    return {
        "template": {"layout": _TEMPLATE},
        "height": height,
        "margin": {"l": left, "r": right, "t": top, "b": bottom},
        **parts,
    }


def axis(title: str = "", **parts: Any) -> Figure:
    """An axis that cannot be dragged."""
    titled = {"title": {"text": title, "standoff": 10}} if title else {}
    return {"fixedrange": True, **titled, **parts}


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 … between two positive numbers; the two themselves where fewer than two lie between."""
    steps = [float(f"{digit}e{exponent}") for exponent in range(-12, 12) for digit in (1, 2, 5)]
    found = [step for step in steps if low <= step <= high]
    return found if len(found) > 1 else [low, high]


_AXIS = {
    "gridcolor": _LINE,
    "linecolor": _LINE,
    "zerolinecolor": _LINE,
    "zerolinewidth": 1,
    "ticks": "outside",
    "ticklen": 5,
    "tickcolor": "rgba(0,0,0,0)",
    "tickfont": {"size": 12, "color": GREY},
    "title": {"font": {"size": 12, "color": GREY}},
}
_TEMPLATE = {
    "font": {"family": _FONT, "size": 12, "color": GREY},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "showlegend": False,
    "dragmode": False,
    "hovermode": "closest",
    "hoverlabel": {
        "bgcolor": "#23282f",
        "bordercolor": "#23282f",
        "font": {"family": _FONT, "size": 12, "color": "#ffffff"},
        "align": "left",
    },
    "xaxis": _AXIS,
    "yaxis": _AXIS,
}
