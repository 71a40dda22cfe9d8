"""Recipes: YAML, as a closed union of typed steps, checked whole before the first step runs.

    calibration: {self: true, files: [], samples: 128, length: 512, seed: 0}
    compress:
      - {step: prune_ffn, keep: 0.9}
      - {step: distill, teacher: original, tokens: 300_000}
      - {step: quantize, solver: scale_search, format: q4_0, embedding: q8_0}
    export: [gguf, onnx]
    tensorrt: {targets: [], profiles: null, batch: 4, call_tokens: null, context: null}
    evaluate: {files: [], tokens: 8192, context: 512, tensors: true}
    bench: {prompt: 512, generate: 128, depth: [0], repetitions: 5}
    samples: {prompts: ["…"], tokens: 64}
    baseline: true
    compare: [Q4_0, Q4_K_M]

A misspelt field or an unknown step is an error that names its place and what exists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import yaml

from edgepress.artifact.tensorrt_layout import DEFAULTS, TensorrtOptions
from edgepress.compress.bounds import Count, Natural
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.distill.config import DistillStep
from edgepress.compress.prune.config import (
    PruneFfn,
    PruneHeads,
    PruneHidden,
    PruneLayers,
    PruneStep,
    Sparsify,
    TrimVocabulary,
)
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.errors import InputError
from edgepress.profiles.recipes import RECIPE_NAMES, recipe_text
from edgepress.recipe_mistakes import with_what_exists
from edgepress.recipe_order import check_order, check_quantize, step_name
from edgepress.runtime.llamacpp_quantize import Mixture

# The list of methods, in one place.
CompressStep = (
    TrimVocabulary | PruneFfn | PruneHeads | PruneLayers | PruneHidden | DistillStep | Sparsify | QuantizeStep
)
STEPS: tuple[type[msgspec.Struct], ...] = get_args(CompressStep)

ExportTarget = Literal["gguf", "onnx", "tensorrt"]
TARGETS: tuple[ExportTarget, ...] = get_args(ExportTarget)


class Evaluate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How quality is measured. Without ``files`` the text is written by the student itself, from another seed.

    With ``tensors`` the report also shows which tensors the divergence comes from, measured in torch on a part of it.
    """

    files: tuple[str, ...] = ()
    tokens: Annotated[int, msgspec.Meta(ge=16)] = 8192
    context: Annotated[int, msgspec.Meta(ge=8)] = 512
    tensors: bool = True


class Bench(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How speed is measured; all lengths in tokens."""

    prompt: Count = 512
    generate: Count = 128
    depth: Annotated[tuple[Natural, ...], msgspec.Meta(min_length=1)] = (0,)
    repetitions: Count = 5
    threads: Count | None = None


class Samples(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prompts answered greedily by every file, for the report."""

    prompts: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = (
        "What is the capital of France?",
        "Explain in two sentences why the sky is blue.",
        "Write a Python function that returns the larger of two numbers.",
    )
    tokens: Count = 64


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole recipe. ``evaluate``, ``bench`` and ``samples`` may be null to skip them; with ``baseline`` the student
    itself is measured too, as a half-precision GGUF file. ``tensorrt`` is of the export of that name. ``compare`` names
    mixtures of llama-quantize: llama.cpp makes those files of the same student with the same calibration text, and
    their quality stands beside ours in the report.
    """

    calibration: Calibration = Calibration()
    compress: tuple[CompressStep, ...] = ()
    export: tuple[ExportTarget, ...] = ("gguf", "onnx")
    tensorrt: TensorrtOptions = DEFAULTS
    evaluate: Evaluate | None = Evaluate()
    bench: Bench | None = Bench()
    samples: Samples | None = Samples()
    baseline: bool = True
    compare: tuple[Mixture, ...] = ()

    @property
    def quantize(self) -> QuantizeStep:
        """The quantize step; a plain float32 copy when the recipe has none."""
        found = (step for step in self.compress if isinstance(step, QuantizeStep))
        return next(found, QuantizeStep(solver="nearest", format="f32"))

    @property
    def pruning(self) -> tuple[PruneStep, ...]:
        """The steps that make the model's shape smaller, in order."""
        return tuple(step for step in self.compress if isinstance(step, get_args(PruneStep)))

    @property
    def trimming(self) -> TrimVocabulary | None:
        """The step that makes the vocabulary smaller, which comes first."""
        return next((step for step in self.compress if isinstance(step, TrimVocabulary)), None)

    @property
    def healing(self) -> tuple[DistillStep, ...]:
        """The steps that train what pruning left."""
        return tuple(step for step in self.compress if isinstance(step, DistillStep))

    @property
    def before_quantize(self) -> tuple[PruneStep | DistillStep, ...]:
        """The steps between trim_vocabulary and quantize, in order; each leaves a student of its own."""
        return tuple(step for step in self.compress if not isinstance(step, QuantizeStep | TrimVocabulary))

    @property
    def stages_before_quantize(self) -> int:
        """How many float32 models lie in the output beside the one that is quantized."""
        return len(self.before_quantize) + (self.trimming is not None)

    @property
    def reshapes(self) -> bool:
        """Whether what is quantized has another shape than the student that comes in."""
        return bool(self.pruning) or self.trimming is not None


def load_recipe(name: str) -> Recipe:
    """A recipe by the name of a shipped one, or from a YAML file.

    Raises:
        InputError: no such recipe, not YAML, or a field or step that does not exist; says where.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise InputError(f"{name}: no such recipe file")
        try:
            return parse_recipe(path.read_text(encoding="utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name}: cannot be read ({error})") from error
    if name not in RECIPE_NAMES:
        raise InputError(f"no recipe {name!r}; shipped recipes: {', '.join(RECIPE_NAMES)}, or give a .yaml file")
    return parse_recipe(recipe_text(name), name)


def parse_recipe(text: str, where: str) -> Recipe:
    """A recipe from YAML text.

    Raises:
        InputError: with the place of the mistake.
    """
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the latter two: impossible dates, endless nesting
        raise InputError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise InputError(
            f"{where}: a recipe is a mapping with calibration, compress, export, …; see 'edgepress recipes'"
        )
    _check_steps(document, where)
    try:
        recipe = msgspec.convert(document, Recipe)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {with_what_exists(str(error), document, Recipe, STEPS)}") from error
    check_order(recipe.compress, where)
    check_quantize(recipe.quantize, where)
    if recipe.tensorrt != DEFAULTS and "tensorrt" not in recipe.export:
        raise InputError(f"{where}: tensorrt says how engines are made, and export does not name tensorrt")
    if recipe.compare and not recipe.export:
        raise InputError(f"{where}: compare puts llama.cpp's files beside those of export, and export names none")
    return recipe


def _check_steps(document: dict[str, Any], where: str) -> None:
    """Name an unknown step, which msgspec's own message does not do well."""
    steps = document.get("compress") or []
    if not isinstance(steps, list):
        raise InputError(f"{where}: compress must be a list of steps, got {type(steps).__name__}")
    known = [step_name(step) for step in STEPS]
    for place, step in enumerate(steps):
        if not isinstance(step, dict) or "step" not in step:
            raise InputError(f"{where}: compress[{place}] must be a mapping with 'step'; steps: {', '.join(known)}")
        if step["step"] not in known:
            raise InputError(f"{where}: compress[{place}]: unknown step {step['step']!r}; steps: {', '.join(known)}")
