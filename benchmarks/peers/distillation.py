"""What a student learns from its teacher, by way of starting and by source of targets, at equal tokens.

    python benchmarks/peers/distillation.py TEACHER --text FILE [FILE …] --work W [--settings small] [--tokens N]
        [--held-out FILE] [--seeds 0 1 2] [--ways distilled labels random alongside]

    distilled   as the settings say: towards the teacher's distributions, from its most important channels
    labels      the same start, cross-entropy with the text's own tokens only
    random      towards the teacher, from random numbers
    alongside   as distilled, with the teacher run at every step in place of its cache: for the speed

Every run is ``edgepress distill``, whose held-out windows are the same for all ways of one seed, and with --held-out
for all seeds, which then share the teacher's pass over the text; all are judged by the divergence from the teacher
there, in nats per token. A run that is there is not made again. Speed is that of the steps;
the teacher's pass over the text, which the cache keeps, and the checks are not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from edgepress.benchmarks.peers.measured import run_measured
from edgepress.benchmarks.peers.record import environment, markdown_table
from edgepress.benchmarks.peers.script import exit_code
from edgepress.benchmarks.training_record import RECORD_FILE, SPEED_FILE, TrainingRecord, TrainingSpeed
from edgepress.pipeline.distill_job import Settings, read_settings

TOOL = Path(sys.executable).with_name("edgepress")
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "distilled": ({}, "importance"),
    "labels": ({"loss": {"kl": 0.0, "hard_labels": 1.0}}, "importance"),
    "random": ({}, "random"),
    "alongside": ({"train": {"top_k": 0}}, "importance"),
}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    way: str
    seed: int
    record: TrainingRecord
    speed: TrainingSpeed
    command_s: float
    peak_rss_bytes: int


def settings_for(settings: Settings, way: str) -> dict[str, Any]:
    """The settings of a way, as a document."""
    document: dict[str, Any] = msgspec.to_builtins(settings)
    for section, changes in WAYS[way][0].items():
        document[section] = document[section] | changes
    return document


def train(arguments: argparse.Namespace, way: str, seed: int) -> Outcome:
    """One run, or what is there of it."""
    folder = Path(arguments.work) / f"{way}-{seed}"
    kept = folder / "outcome.json"
    if kept.is_file():
        return msgspec.json.decode(kept.read_bytes(), type=Outcome)
    folder.mkdir(parents=True, exist_ok=True)
    document = settings_for(read_settings(arguments.settings), way)
    (folder / "settings.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    texts = [part for file in arguments.text for part in ("--text", file)]
    texts += [part for file in arguments.held_out for part in ("--held-out", file)]
    tokens = ["--tokens", str(arguments.tokens)] if arguments.tokens else []
    options = ["--settings", str(folder / "settings.yaml"), "--select", WAYS[way][1], "--seed", str(seed)]
    command = [str(TOOL), "distill", "--teacher", arguments.teacher, *texts, *options, *tokens]
    run = run_measured([*command, "-o", str(folder / "student")], folder / "log.txt")
    outcome = Outcome(
        way=way,
        seed=seed,
        record=msgspec.json.decode((folder / "student" / RECORD_FILE).read_bytes(), type=TrainingRecord),
        speed=msgspec.json.decode((folder / "student" / SPEED_FILE).read_bytes(), type=TrainingSpeed),
        command_s=run.wall_s,
        peak_rss_bytes=run.peak_rss_bytes,
    )
    kept.write_bytes(msgspec.json.format(msgspec.json.encode(outcome), indent=2))
    return outcome


def share_of_tokens(quick: TrainingRecord, slow: TrainingRecord) -> float:
    """Share of the tokens after which one run is, by its checks, where the other ends; above 1 where it never is."""
    goal = slow.checks[-1].held_out
    there = [check.tokens for check in quick.checks if check.held_out <= goal]
    return there[0] / slow.checks[-1].tokens if there else float("inf")


def curves(outcomes: Sequence[Outcome]) -> str:
    """Held-out divergence by tokens, mean over the seeds and standard deviation where there are several."""
    ways = list(dict.fromkeys(outcome.way for outcome in outcomes))
    of = {way: [outcome.record.checks for outcome in outcomes if outcome.way == way] for way in ways}
    rows = []
    for place, check in enumerate(of[ways[0]][0]):
        values = [[checks[place].held_out for checks in of[way]] for way in ways]
        rows.append([f"{check.tokens:,}", *(_mean(each) for each in values)])
    speeds = [[o.speed.tokens_per_s for o in outcomes if o.way == way] for way in ways]
    rows.append(["tokens/s", *(f"{np.mean(each):,.0f}" for each in speeds)])
    return markdown_table(["tokens", *ways], rows)


def compare(arguments: argparse.Namespace) -> None:
    """Make or read all runs; print the curves, and what the start is worth."""
    outcomes = [train(arguments, way, seed) for seed in arguments.seeds for way in arguments.ways]
    found = {"environment": environment(None), "outcomes": [msgspec.to_builtins(outcome) for outcome in outcomes]}
    (Path(arguments.work) / "comparison.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    student = outcomes[0].record.student
    print(f"{student.parameters:,} parameters, {student.layers} layers of {student.hidden}")
    print(curves(outcomes))
    by = {(outcome.way, outcome.seed): outcome.record for outcome in outcomes}
    if {"distilled", "random"} <= set(arguments.ways):
        shares = [share_of_tokens(by["distilled", seed], by["random", seed]) for seed in arguments.seeds]
        print("tokens to where the random start ends, as a share:", ", ".join(f"{share:.2f}" for share in shares))


def _mean(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main() -> int:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description="Distillation by start and by source of targets.")
    parser.add_argument("teacher", help="anything edgepress opens")
    parser.add_argument("--text", nargs="+", required=True, help="text to train on; a part is held out")
    parser.add_argument("--held-out", nargs="+", default=[], help="text to judge by, in place of a part of --text")
    parser.add_argument("--work", required=True, help="where runs are kept")
    parser.add_argument("--settings", default="small", help="shipped settings or a .yaml file")
    parser.add_argument("--tokens", type=int, help="in place of the settings'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS)[:3])
    return exit_code(lambda: compare(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
