"""What flows between the rooms: model specs, weights, quantized tensors, checkpoints and manifests.

Imports neither torch nor transformers, so that a board needs neither. Knows no solver, no exporter and no engine.
"""
