"""Compression: a student goes in, a checkpoint comes out.

What comes in: a student (a Hugging Face directory, a GGUF file, a hub id, a built-in name or an earlier checkpoint) and
the steps of a recipe. What goes out: a checkpoint (:mod:`edgepress.artifact.checkpoint`), that is float weights,
integers on the grids of the shipped formats, and the name of each tensor's format.

May import ``runtime`` and what lies below it, torch and transformers; must not import ``export`` or ``benchmarks``,
which it meets at the artifact only, nor ``recipe``, ``pipeline`` or ``cli``, which call it.
"""
