"""Structured pruning: FFN neurons, attention heads and layers go, and what stays is solved to make up for them.

``obs`` is the method, ``importance`` the ones that it is compared with, ``layers`` the walk over a model.
"""
