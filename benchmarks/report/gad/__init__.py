"""The report of a training against a discriminator: one page in the style of the other reports, from ``manifest.json``,
``gad.json`` and, where it was timed, ``measurements/speed.json``.

    figures   what the judge and the discriminator say, reward, divergence and diversity
    page      says it in words and numbers, and puts the page together with gad.html
"""

from edgepress.benchmarks.report.gad.page import write_gad_report as write_gad_report
