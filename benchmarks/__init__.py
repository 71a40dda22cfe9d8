"""Measuring: what the compression cost in quality, and what the shipped file does in its own engine.

In: a :class:`~edgepress.runtime.session.Session` or the path of a model, token windows, a scenario. Out: records
(:mod:`~edgepress.benchmarks.records`) with raw samples first and everything else derived from them, units in the names.
Imports neither torch nor transformers; the reference comes in as one more Session. Knows no solver and no exporter.

    windows · kld · packed_reference · reference_cache · quality     how far is the file from the student?
    worker · launch · latency · cautions · compare                   how fast is it, and in how much memory?
    statistics · records · model_facts                               used by both
"""
