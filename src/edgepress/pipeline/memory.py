"""How much memory a run takes, phase by phase, from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from math import prod

from edgepress.artifact.families import EMBEDDING, LAYER
from edgepress.compress.calibrate.self_generate import streams_at_once, weight_bytes
from edgepress.compress.distill.config import DistillStep, Lora, Training
from edgepress.compress.prune.config import PruneFfn, PruneHidden
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


@dataclass(frozen=True)
class _Sizes:
    """Of a run, in bytes unless named otherwise."""

    embedding: int  # float32
    layer: int  # the largest, float32
    length: int  # tokens of a window
    hidden: int  # hidden states of all windows
    widest: int  # features of a feed-forward
    activations: int  # of one batch

    @property
    def running(self) -> int:
        """One model runs over the windows."""
        return self.hidden + self.activations + _WORKSPACE_BYTES


def peak_memory(student: Student, recipe: Recipe, *, calibrated: bool) -> int:
    """Peak resident bytes of ``compress``: the largest of its phases, on top of the libraries.

    Args:
        student: the model.
        recipe: what is done to it.
        calibrated: whether any of that looks at activations.
    """
    sizes, step = _sizes(student, recipe), recipe.quantize
    phases = [3 * sizes.embedding, 3 * sizes.layer]  # read, code, dequantize and write
    if not calibrated and recipe.trimming is None:
        return _LIBRARIES_BYTES + max(phases)
    phases += [3 * sizes.embedding + sizes.running, 3 * sizes.layer + sizes.running]
    if looks_at_text(step):
        phases.append(3 * sizes.layer + 60 * student.spec.hidden**2 + sizes.running)
    if step.solver == "gptaq" or step.budgets or recipe.pruning:
        phases += _solver_memory(student, recipe, sizes)
    if step.qad_tokens:
        phases.append(_training_memory(student, recipe, sizes.length))
    narrowed = any(isinstance(step, PruneHidden) for step in recipe.compress)
    phases += [_healing_memory(student, step, narrowed=narrowed) for step in recipe.healing]
    if calibrated and recipe.calibration.self_generated:
        phases.append(_writing_memory(student, recipe, sizes))
    return _TORCH_BYTES + max(phases)


def _sizes(student: Student, recipe: Recipe) -> _Sizes:
    spec, calibration = student.spec, recipe.calibration
    counts = {name: prod(student.shape(name)) for name in student.names}
    layers = [LAYER.format(i=i) for i in range(spec.depth)]
    length = min(calibration.length, spec.context)
    widest = max(entry.ffn for entry in spec.layers)
    activations = 4 * _TOKENS_PER_BATCH * (3 * widest + 4 * spec.hidden)
    if recipe.quantize.activations != "float":
        activations += 12 * _TOKENS_PER_BATCH * widest  # the bins of an input's histogram
    return _Sizes(
        embedding=4 * counts[EMBEDDING],
        layer=max(4 * sum(count for name, count in counts.items() if name.startswith(prefix)) for prefix in layers),
        length=length,
        hidden=4 * calibration.samples * length * spec.hidden,
        widest=widest,
        activations=activations,
    )


def _solver_memory(student: Student, recipe: Recipe, sizes: _Sizes) -> tuple[int, int]:
    """The embedding's target, values and codes; then two models' hidden states and inputs of a layer's last linears,
    the widest Hessian and its factors. A search also holds a candidate's embedding and head beside the original's,
    and their logits.
    """
    spec = student.spec
    searches = bool(recipe.quantize.budgets or recipe.pruning)
    logits = 16 * _TOKENS_OF_LOGITS * spec.vocab if searches else 0
    attention = spec.head_dim * max(entry.heads for entry in spec.layers)
    # inputs of a feed-forward's last linear, or while one is reconstructed its inputs and outputs
    reconstructs = any(isinstance(each, PruneFfn) and each.reconstruct for each in recipe.compress)
    last = max(sizes.widest, 2 * spec.hidden if reconstructs else 0)
    kept = 4 * recipe.calibration.samples * sizes.length * (2 * attention + last)
    squares = 90 if recipe.pruning else 60  # bytes for each entry of the widest Hessian
    moments = squares * max(sizes.widest, spec.hidden) ** 2 + _COMPILER_BYTES
    return (
        (8 if searches else 5) * sizes.embedding + logits + sizes.running,
        sizes.hidden + kept + 5 * sizes.layer + moments + sizes.activations + sizes.running,
    )


def _writing_memory(student: Student, recipe: Recipe, sizes: _Sizes) -> int:
    """The student as it writes text, with the keys and values of its streams."""
    parameters = sum(prod(student.shape(name)) for name in student.names)
    wanted = max(recipe.calibration.samples, recipe.quantize.qad_samples)
    streams = min(streams_at_once(student, sizes.length), wanted)
    cache = streams * student.spec.kv_cache_bytes(sizes.length, weight_bytes())
    return weight_bytes() * parameters + sizes.embedding + cache + _WORKSPACE_BYTES


def _healing_memory(student: Student, step: DistillStep, *, narrowed: bool) -> int:
    """Parameters, and of what is trained gradients, both moments and the best so far, in float32; the teacher where it
    runs alongside; what a piece of a batch leaves for the backward pass; logits of some tokens. Counted before pruning,
    which makes it less.
    """
    spec, models = student.spec, 1 if step.top_k else 2
    training = step.training(step.length, 0, narrowed=narrowed)
    trained = student.parameters - (spec.vocab * spec.hidden if training.embedding == "frozen" else 0)
    floats = models * student.parameters + (5 * _adapters(student, step.lora) if step.lora else 4 * trained)
    widest = max(entry.ffn for entry in spec.layers)
    piece = min(training.piece_tokens, step.batch_tokens)
    kept = (2 if _multiplies_in_bfloat16(training) else 4) * piece * spec.depth * (6 * widest + 14 * spec.hidden)
    return 4 * floats + kept + 24 * _TOKENS_OF_LOGITS * spec.vocab + _WORKSPACE_BYTES


def _multiplies_in_bfloat16(training: Training) -> bool:
    """As training does here; no where torch is not installed, and nothing is trained."""
    if find_spec("torch") is None:
        return False
    from edgepress.compress.distill.precision import in_bfloat16

    return in_bfloat16(training)


def _adapters(student: Student, lora: Lora) -> int:
    """Parameters of the adapters: of each matrix of the layers, rank times its rows and columns."""
    shapes = [student.shape(name) for name in student.names if name.startswith(LAYER.partition("{")[0])]
    return sum(lora.rank * sum(shape) for shape in shapes if len(shape) == 2)


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
