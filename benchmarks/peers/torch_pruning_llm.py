"""Torch-Pruning and edgepress at the same number of parameters: divergence before any healing, and behind the same.

    python benchmarks/peers/torch_pruning_llm.py STUDENT --calibration FILE --evaluation FILE [--ratios 0.1 0.2]
        [--samples 64] [--length 512] [--seeds 0] [--tokens 40960] [--methods magnitude taylor]
        [--heal TOKENS --text FILE ... --rate 1e-4]

    magnitude    as Torch-Pruning's own example for language models has it: hidden width, heads and neurons, the same
                 share of each, by the norm of their weights
    taylor       as LLM-Pruner scores: |weight · gradient| of the text's next-token loss, of neurons alone
    edgepress    behind each: prune_ffn with the share of neurons that leaves as many parameters, or fewer

Torch-Pruning 1.6 (`pip install --no-deps torch-pruning` into the environment this runs in; nothing else of edgepress
needs it). Float32 in torch; as many tied embeddings as before count once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.benchmarks.peers.healing import heal
from edgepress.benchmarks.peers.pruning import divergences, head_of
from edgepress.benchmarks.peers.script import exit_code
from edgepress.benchmarks.peers.simulated import mean_and_difference, text_section
from edgepress.compress.calibrate.held_out import thin_out
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.prune.config import PruneFfn
from edgepress.compress.search.divergence import final_states
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.prune import prune
from edgepress.pipeline.stages import Output
from edgepress.recipe import Recipe
from edgepress.runtime.torch_reference import load_model

METHODS = ("magnitude", "taylor")
_GRADIENT_WINDOWS, _WINDOWS_AT_ONCE = 10, 4  # LLM-Pruner's examples; those of which logits are held
_STEP = 32


def torch_pruned(student: Student, method: str, ratio: float, windows: NDArray[np.int32]) -> Any:
    """The student as a transformers model, pruned by Torch-Pruning.

    Raises:
        InputError: it is not installed.
    """
    try:
        tp = importlib.import_module("torch_pruning")
    except ImportError as error:
        raise InputError("torch_pruning is not installed: pip install --no-deps torch-pruning") from error
    model = load_model(student)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.config.use_cache = False  # its tracer wants tensors, and to see keys repeated for their query heads
    model.set_attn_implementation("eager")
    importance = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")
    if method == "taylor":
        importance = tp.importance.GroupTaylorImportance(group_reduction="mean")
        for window in torch.from_numpy(thin_out(windows, _GRADIENT_WINDOWS).astype(np.int64)):
            model(window[None], labels=window[None]).loss.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that norms are pruned with what they are of
        pruner = tp.pruner.BasePruner(
            model,
            example_inputs=torch.arange(16)[None],
            importance=importance,
            ignored_layers=[model.lm_head],
            prune_head_dims=False,
            round_to=4,
            **_shares(student, model, method, ratio),
        )
        for group in pruner.step(interactive=True):
            group.prune()
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.num_key_value_groups = attention.q_proj.out_features // attention.k_proj.out_features
    return model


def _shares(student: Student, model: Any, method: str, ratio: float) -> dict[str, Any]:
    """What Torch-Pruning is told to prune."""
    heads: dict[Any, int] = {}
    for layer, shape in zip(model.model.layers, student.spec.layers, strict=True):
        attention = layer.self_attn
        heads |= {attention.q_proj: shape.heads, attention.k_proj: shape.kv_heads, attention.v_proj: shape.kv_heads}
    if method == "magnitude":
        return {"pruning_ratio": ratio, "head_pruning_ratio": ratio, "num_heads": heads, "prune_num_heads": True}
    neurons = {part: ratio for layer in model.model.layers for part in (layer.mlp.gate_proj, layer.mlp.up_proj)}
    return {"pruning_ratio": 0.0, "pruning_ratio_dict": neurons, "num_heads": heads}


def parameters(model: Any, *, tied: bool) -> int:
    """Numbers of a transformers model; a head that was the embedding counts with it."""
    whole: int = sum(tensor.numel() for tensor in {id(each): each for each in model.parameters()}.values())
    shared = tied and model.lm_head.weight is not model.model.embed_tokens.weight
    return whole - (int(model.lm_head.weight.numel()) if shared else 0)


@torch.inference_mode()
def states_of(model: Any, windows: NDArray[np.int32]) -> torch.Tensor:
    """Outputs of a transformers model's final norm."""
    ids = torch.from_numpy(windows.astype(np.int64))
    batches = [ids[start : start + _WINDOWS_AT_ONCE] for start in range(0, len(ids), _WINDOWS_AT_ONCE)]
    return torch.cat([model.model(batch, use_cache=False).last_hidden_state for batch in batches])


def step_for(student: Student, wanted: int) -> PruneFfn:
    """The step that leaves at most so many parameters.

    Raises:
        InputError: neurons alone cannot.
    """
    neurons = sum(layer.ffn for layer in student.spec.layers)
    keep = 1 - (student.parameters - wanted) / (3 * student.spec.hidden * neurons)
    steps = int(keep * neurons / (_STEP * student.spec.depth))
    if steps < 1:
        raise InputError(f"{wanted} parameters are fewer than neurons can be taken for; take a smaller ratio")
    return PruneFfn(keep=steps * _STEP * student.spec.depth / neurons, multiple_of=_STEP)


def compare(arguments: argparse.Namespace) -> None:
    """Print two lines for each seed, ratio and method."""
    student = open_student(arguments.student)
    count = arguments.tokens // arguments.length
    judged = calibration_windows(
        student, text_section(arguments.evaluation, samples=count, length=arguments.length, seed=0)
    )
    reference = final_states(student, judged), head_of(student)
    for seed in arguments.seeds:
        text = text_section(arguments.calibration, samples=arguments.samples, length=arguments.length, seed=seed)
        windows = calibration_windows(student, text)
        for ratio in arguments.ratios:
            for method in arguments.methods:
                model = torch_pruned(student, method, ratio, windows)
                left = parameters(model, tied=student.spec.tied)
                scores = _judge(arguments, student, model, judged, reference)
                for stage, theirs in scores.items():
                    _say(seed, ratio, f"Torch-Pruning, {method}{stage}", left, mean_and_difference(theirs, theirs))
                recipe = Recipe(calibration=text, compress=(step_for(student, left),), export=("gguf", "onnx"))
                with tempfile.TemporaryDirectory(prefix="edgepress-pruning-") as folder:
                    output = Output(Path(folder) / "out")
                    with output.claim("run"):
                        pruned = prune(student, recipe, output)
                        left, model = pruned.parameters, load_model(pruned)
                        for stage, ours in _judge(arguments, student, model, judged, reference).items():
                            _say(seed, ratio, f"edgepress{stage}", left, mean_and_difference(ours, scores[stage]))


def _judge(
    arguments: argparse.Namespace,
    student: Student,
    model: Any,
    judged: NDArray[np.int32],
    reference: tuple[torch.Tensor, torch.Tensor],
) -> dict[str, NDArray[np.float64]]:
    """Divergences of a pruned model, and behind its healing where that is asked for."""

    def found() -> NDArray[np.float64]:
        return divergences(reference, (states_of(model, judged), model.lm_head.weight.detach()))

    scores = {"": found()}
    if arguments.heal:
        heal(student, model, arguments.text, arguments.heal, arguments.rate)
        scores[", healed"] = found()
    return scores


def _say(seed: int, ratio: float, what: str, parameters: int, found: str) -> None:
    print(f"seed {seed}  ratio {ratio:g}  {what:34} {parameters / 1e6:7.2f} M  {found}", flush=True)


def main() -> int:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description="Torch-Pruning and edgepress at the same number of parameters.")
    parser.add_argument("student", help="anything edgepress opens")
    parser.add_argument("--calibration", required=True, help="a text file")
    parser.add_argument("--evaluation", required=True, help="a text file that shares nothing with it")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.2])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tokens", type=int, default=40960)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--heal", type=int, default=0, help="tokens to train both on")
    parser.add_argument("--text", nargs="+", default=[], help="files of them")
    parser.add_argument("--rate", type=float, default=1e-4)
    arguments = parser.parse_args()
    return exit_code(lambda: compare(arguments))


if __name__ == "__main__":
    sys.exit(main())
