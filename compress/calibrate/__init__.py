"""Calibration: the texts whose activations tell the solvers what matters, and the walk that collects them.

``tokens`` makes the sample windows (from the student itself or from files), ``walk`` runs the model layer by layer.
"""
