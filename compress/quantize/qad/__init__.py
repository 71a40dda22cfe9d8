"""Quantization-aware distillation: train what ships to have the student's distribution.

``straight_through``  values of a grid from continuous codes, and the gradients that go back through the rounding
``trainable``         one tensor: its continuous codes and its scales as parameters
``loss``              KL divergence and its gradient at the last hidden states, a few tokens' logits at a time
``model``             the model whose tensors are being trained
``train``             the loop, and the best state on held-out text
``distill``           from a solved checkpoint to a better one
"""
