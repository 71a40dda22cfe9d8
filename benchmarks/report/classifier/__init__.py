"""The report of a classifier: one page in the style of the others, from ``classifier.json`` and
``measurements/cost.json``.

    figures   confusion, calibration, the course of the training
    page      says it in words and numbers, and puts the page together with classifier.html
"""

from edgepress.benchmarks.report.classifier.page import write_classifier_report as write_classifier_report
