"""The figures, as plain plotly dictionaries: pure functions of the records that import no plotly.

Every text that does not come from this package is escaped by :func:`~edgepress.benchmarks.report.figures.theme.plain`
and reaches a hover template as data, never as part of it. Text and lines are in grey that reads on white and on
near-black; page.css sharpens them for the colour scheme at hand.
"""
