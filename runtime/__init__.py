"""One Session per engine: llama.cpp, ONNX Runtime, and the torch reference that the others are checked against.

In: an exported file (or, for the reference, a weight source). Out: logits, tokens, memory. Imports no torch and no
transformers, except in ``torch_reference``; knows nothing of how the file came to be.
"""
