"""A template and its figures as one page: texts escaped by the template, plotly.js in front of the first figure."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from edgepress.benchmarks.report.figures.theme import CONFIG, Figure
from edgepress.errors import require


def fill(template: str, texts: dict[str, Any], figures: dict[str, Figure]) -> str:
    """The page as text; it fetches nothing.

    Args:
        template: its file's name, beside this module.
        texts: what it names.
        figures: by name, in the page's order; the template finds them as ``figures``.

    Raises:
        MissingExtraError: plotly or jinja2 is not installed.
    """
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_asset),
    )
    markup = jinja2.utils.markupsafe.Markup
    drawn = {name: markup(text) for name, text in _draw(figures).items()}
    page: str = environment.get_template(template).render(**texts, figures=drawn, css=markup(_asset("page.css")))
    return page


def _asset(name: str) -> str:
    return (files("edgepress.benchmarks.report") / name).read_text(encoding="utf-8")


def _draw(figures: dict[str, Figure]) -> dict[str, str]:
    require("plotly", "report")
    html = require("plotly.io", "report")
    return {
        name: html.to_html(
            figure,
            config=CONFIG,
            include_plotlyjs=place == 0,
            full_html=False,
            div_id=f"figure-{name}",
            default_height=f"{figure['layout']['height']}px",
        )
        for place, (name, figure) in enumerate(figures.items())
    }
