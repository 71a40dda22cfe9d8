"""ONNX export in onnxruntime-genai's layout: one graph for prompt and decoding, weights beside it, ready for phones.

Modules, in the order of the work: ``matmulnbits`` (how integers are stored), ``graph`` (a graph as plain records),
``linear`` and ``decoder`` (the nodes of a model), ``proto`` (records → protobuf), ``genai`` (``genai_config.json`` and
the tokenizer), ``writer`` (files), ``verify`` (files read back and compared).
"""
