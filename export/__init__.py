"""Checkpoint in, files that run elsewhere out: ``gguf/`` for llama.cpp, ``onnx/`` for ONNX Runtime.

Packs the integers of a checkpoint into a shipped format and never rounds anything itself. Imports nothing from
``compress``: the two meet at :mod:`edgepress.artifact`.
"""
