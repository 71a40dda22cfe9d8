"""Function-preserving preparation: the same logits from numbers that lose less when they are rounded.

A method is a module: a pure function on arrays, and an adapter that wraps a weight source and changes its tensors as
they are read, layer by layer. What comes out is a plain model of the same shape. ``apply`` wraps a source in those that
a recipe names.
"""
