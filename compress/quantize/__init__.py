"""Weights onto the grids of the shipped formats.

``solve`` picks the routine for a solver and a format; each method is a module of its own: ``nearest`` and
``scale_search`` for the 32-wide blocks, ``k_affine`` and ``k_symmetric`` for the K types. ``assign`` decides which
tensor gets which format, ``layers`` walks the model.
"""
