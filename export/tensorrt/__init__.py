"""TensorRT export: standard, strongly typed ONNX graphs that carry the checkpoint's integers.

Modules, in the order of the work: ``linear``, ``attention`` and ``decoder`` (the nodes of a model, as records of
:mod:`edgepress.export.onnx.graph`), ``support`` (what is refused), ``writer`` (files), ``verify`` (files read back and
compared).
"""
