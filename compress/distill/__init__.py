"""Distillation: a small model learns the next-token distributions of a larger one.

``losses`` and ``hidden_states`` are the objectives, ``through_head`` evaluates them without all logits in memory,
``teacher_cache`` lets the teacher run once, ``text`` cuts the data, ``weight_selection`` starts a student from slices
of its teacher, ``train`` puts them together.
"""
