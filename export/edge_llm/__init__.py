"""The hand-over to NVIDIA's TensorRT Edge-LLM: a Hugging Face checkpoint with INT4 weights in GPTQ's layout.

Edge-LLM exports such checkpoints with its own tool on a PC and builds engines on the board. It brings kernels of its
own, so nothing of it can run here; what is checked is that the integers are ours.
"""
