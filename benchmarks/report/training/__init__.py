"""The report of a distillation: one page in the style of the other report, from ``manifest.json``,
``distillation.json`` and, where it was timed, ``measurements/speed.json``.

    figures   the loss of every step, and the held-out divergence
    page      says it in words and numbers, and puts the page together with training.html
"""

from edgepress.benchmarks.report.training.page import write_training_report as write_training_report
