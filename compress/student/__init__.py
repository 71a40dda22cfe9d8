"""Students: the models that come in, each one a source of float32 tensors read one at a time.

``open.py`` finds out what a user's STUDENT is; ``hf_directory.py``, ``gguf_file.py`` and ``checkpoint.py`` read the
three kinds; everything is checked against the family's table before the first weight is read. Loads safetensors and
GGUF only, never pickle, and never runs a model's own code. Needs neither torch nor a network for local files.
"""
