"""The report: one HTML page about an output directory, to be looked at rather than read.

In: a directory with ``manifest.json`` and whatever ``measurements/`` there are. Out: ``report.html``, self-contained.
Everything on the page is derived from the records and from nothing else, so that the same records give the same page.

    contents                        reads the directory
    artifacts · verdict · tables    say it in words and numbers
    figures                         draw it, as plain plotly dictionaries
    samples · reproduce             answers side by side; what it takes to get there again
    page                            puts it together with page.html and page.css
"""

from edgepress.benchmarks.report.page import write_report as write_report
