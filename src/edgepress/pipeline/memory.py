"""How much memory a run takes, phase by phase, from shapes alone."""

from __future__ import annotations

from math import prod

from edgepress.artifact.families import EMBEDDING, LAYER
from edgepress.compress.calibrate.self_generate import streams_at_once, weight_bytes
from edgepress.compress.quantize.prepare.apply import looks_at_text
from edgepress.compress.student.student import Student
from edgepress.recipe import Recipe

# What Python holds before any model, without and with torch and transformers, measured on x86-64 Linux; and what
# torch's allocator and matrix kernels take on top of the tensors.
_LIBRARIES_BYTES = 90 << 20
_TORCH_BYTES = 390 << 20
_WORKSPACE_BYTES = 100 << 20
_COMPILER_BYTES = 130 << 20  # numba, LLVM and oneDNN
_TOKENS_PER_BATCH = 2048
_TOKENS_OF_LOGITS = 128
_TOKENS_IN_TRAINING = 1024


def peak_memory(student: Student, recipe: Recipe, *, calibrated: bool) -> int:
    """Peak resident bytes of ``compress``: the largest of its phases, on top of the libraries.

    Args:
        student: the model.
        recipe: what is done to it.
        calibrated: whether any of that looks at activations.
    """
    values = {name: prod(student.shape(name)) for name in student.names}
    embedding = 4 * values[EMBEDDING]
    layers = [LAYER.format(i=i) for i in range(student.spec.depth)]
    layer = max(4 * sum(count for name, count in values.items() if name.startswith(prefix)) for prefix in layers)
    phases = [3 * embedding, 3 * layer]  # read, code, dequantize and write
    calibration = recipe.calibration
    if not calibrated:
        return _LIBRARIES_BYTES + max(phases)
    length = min(calibration.length, student.spec.context)
    hidden = 4 * calibration.samples * length * student.spec.hidden
    widest = max(entry.ffn for entry in student.spec.layers)
    activations = 4 * _TOKENS_PER_BATCH * (3 * widest + 4 * student.spec.hidden)
    if recipe.quantize.activations != "float":
        activations += 12 * _TOKENS_PER_BATCH * widest  # the bins of an input's histogram
    phases.append(hidden + 3 * embedding + activations + _WORKSPACE_BYTES)
    phases.append(hidden + 3 * layer + activations + _WORKSPACE_BYTES)
    if looks_at_text(recipe.quantize):
        phases.append(hidden + 3 * layer + 60 * student.spec.hidden**2 + activations + _WORKSPACE_BYTES)
    if recipe.quantize.solver == "gptaq" or recipe.quantize.budgets:
        # Two models' hidden states and inputs of a layer's last linears; the embedding's target, values and codes; the
        # widest Hessian and its factors.
        moments = 60 * max(widest, student.spec.hidden) ** 2 + _COMPILER_BYTES
        # A search also holds a candidate's embedding and head beside the original's, and their logits.
        copies = 8 if recipe.quantize.budgets else 5
        logits = 16 * _TOKENS_OF_LOGITS * student.spec.vocab if recipe.quantize.budgets else 0
        phases.append(hidden + copies * embedding + logits + activations + _WORKSPACE_BYTES)
        attention = student.spec.head_dim * max(entry.heads for entry in student.spec.layers)
        kept = 4 * calibration.samples * length * (2 * attention + widest)
        phases.append(2 * hidden + kept + 5 * layer + moments + 2 * activations + _WORKSPACE_BYTES)
    if recipe.quantize.qad_tokens:
        phases.append(_training_memory(student, recipe, length))
    if calibration.self_generated:
        streams = min(streams_at_once(student, length), max(calibration.samples, recipe.quantize.qad_samples))
        cache = streams * student.spec.kv_cache_bytes(length, weight_bytes())
        phases.append(weight_bytes() * sum(values.values()) + embedding + cache + _WORKSPACE_BYTES)
    return _TORCH_BYTES + max(phases)


def _training_memory(student: Student, recipe: Recipe, length: int) -> int:
    """Codes, their momentum, the values they stand for and the gradients of both in float32, and the best codes so far;
    the embedding and both heads; last hidden states; what a batch of activations leaves for the backward pass.
    """
    matrices = sum(prod(student.shape(name)) for name in student.names if name != EMBEDDING)
    widest = max(entry.ffn for entry in student.spec.layers)
    states = 4 * max(recipe.calibration.samples, recipe.quantize.qad_samples) * length * student.spec.hidden
    kept = 4 * _TOKENS_IN_TRAINING * student.spec.depth * (6 * widest + 14 * student.spec.hidden)
    logits = 24 * _TOKENS_OF_LOGITS * student.spec.vocab
    return 24 * matrices + 4 * 4 * prod(student.shape(EMBEDDING)) + 2 * states + kept + logits + _WORKSPACE_BYTES
