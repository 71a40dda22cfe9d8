"""Weight selection for encoders: a smaller encoder, or vision model, starts from slices of a larger one.

``source`` loads the larger one, ``shape`` checks the sizes, ``selection`` chooses and cuts, ``statistics`` says on
calibration inputs what matters, ``norms`` fits the layer norms to fewer channels, ``sliced`` puts them together. What
each tensor is stands in :mod:`edgepress.artifact.encoder_families`. Decoders:
:mod:`edgepress.compress.distill.weight_selection`.
"""
