"""What is a small classifier worth that learned a teacher's labels, beside the teacher and beside gold labels?

    python benchmarks/peers/synthetic_labels.py SENTIMENT --student MINILM --work W [--teacher smollm2-135m-instruct]
        [--seeds 0 1 2] [--modes head whole] [--task task.yaml]

SENTIMENT is a folder with ``tweeteval_sentiment_val_{text,labels}.txt`` and a mapping of label numbers to names. By the
order of the file one half of the tweets is unlabelled, for the teacher, the other is the test with gold labels, which
nothing learns from. Every run is ``edgepress label`` and ``edgepress classifier``; one that is there is not made again.

    synthetic   the student learns the teacher's calibrated probabilities
    gold        the yardstick: the same student learns the gold labels of the same tweets

The table has mean ± standard deviation over the seeds, which draw the order of the texts, what is held out, and
dropout; the standard errors from the finite test are in the records and larger.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgepress.benchmarks.classification import Scores
from edgepress.benchmarks.label_record import (
    CLASSIFIER_FILE,
    COST_FILE,
    GOLD_SUFFIX,
    LABEL_RECORD_SUFFIX,
    ClassifierRecord,
    CostRecord,
    LabelRecord,
)
from edgepress.benchmarks.peers.measured import run_measured
from edgepress.benchmarks.peers.record import environment, markdown_table
from edgepress.benchmarks.peers.script import exit_code
from edgepress.benchmarks.peers.texts import read
from edgepress.errors import InputError

PROGRAM = (sys.executable, "-c", "from edgepress.cli import main; main()")
SOURCES = ("synthetic", "gold")
TASK = """labels:
  negative: [" negative"]
  neutral: [" neutral"]
  positive: [" positive"]
template: "Tweet: {text}\\nSentiment:"
"""


def read_tweets(folder: Path) -> list[tuple[str, str]]:
    """Tweets and the names of their labels.

    Raises:
        InputError: the files do not fit together.
    """
    start = "tweeteval_sentiment_"
    mapping = dict(line.split("\t") for line in read(folder / f"{start}mapping.txt").splitlines() if line.strip())
    numbers = read(folder / f"{start}val_labels.txt").split()
    texts = read(folder / f"{start}val_text.txt").split("\n")[: len(numbers)]
    if len(texts) < len(numbers) or not set(numbers) <= set(mapping):
        raise InputError(f"{folder}: {len(texts)} tweets, {len(numbers)} labels, known labels {sorted(mapping)}")
    return [(text.strip(), mapping[number].strip()) for text, number in zip(texts, numbers, strict=True)]


def split(tweets: list[tuple[str, str]], work: Path, task: Path | None) -> None:
    """Write the unlabelled half, the same with its gold labels, the test half, and the task."""
    half = len(tweets) // 2
    work.mkdir(parents=True, exist_ok=True)
    (work / "texts.txt").write_text("".join(text + "\n" for text, _ in tweets[:half]), encoding="utf-8")
    for name, part in (("yardstick.jsonl", tweets[:half]), ("test.jsonl", tweets[half:])):
        lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in part]
        (work / name).write_text("".join(lines), encoding="utf-8")
    (work / "task.yaml").write_text(read(task) if task else TASK, encoding="utf-8")


def label(arguments: argparse.Namespace) -> LabelRecord:
    """The teacher's labels, and its answers to the test."""
    work: Path = arguments.work
    out = work / "labels.jsonl"
    if not out.is_file():
        options = ["--teacher", arguments.teacher, "--task", work / "task.yaml", "--gold", work / "test.jsonl"]
        run_measured([*PROGRAM, "label", work / "texts.txt", *options, "-o", out], work / "label.log")
    return msgspec.json.decode(out.with_suffix(LABEL_RECORD_SUFFIX).read_bytes(), type=LabelRecord)


def train(arguments: argparse.Namespace, source: str, mode: str, seed: int) -> tuple[ClassifierRecord, CostRecord]:
    """One classifier, or what is there of it."""
    work: Path = arguments.work
    out = work / f"{source}-{mode}-{seed}"
    if not (out / COST_FILE).is_file():
        text = work / ("labels.jsonl" if source == "synthetic" else "yardstick.jsonl")
        files = ["--text", text, "--gold", (work / "labels.jsonl").with_suffix(GOLD_SUFFIX)]
        options = [*files, "--mode", mode, "--seed", str(seed), *_settings(arguments)]
        command = [*PROGRAM, "classifier", "--student", arguments.student, *options, "-o", out]
        run_measured(command, work / f"{out.name}.log")
    return (
        msgspec.json.decode((out / CLASSIFIER_FILE).read_bytes(), type=ClassifierRecord),
        msgspec.json.decode((out / COST_FILE).read_bytes(), type=CostRecord),
    )


def _settings(arguments: argparse.Namespace) -> list[Any]:
    return ["--settings", arguments.settings] if arguments.settings else []


def row_of(name: str, runs: list[tuple[ClassifierRecord, CostRecord]]) -> list[str]:
    """Means and standard deviations over the seeds."""
    students = [record.gold["student"] for record, _ in runs]
    assert all(scores.ece is not None for scores in students)
    return [
        name,
        _spread([100 * scores.accuracy for scores in students], 1),
        _spread([scores.macro_f1 for scores in students], 3),
        _spread([scores.ece or 0.0 for scores in students], 3),
        _spread([100 * record.agreement for record, _ in runs], 1),
        f"{np.mean([cost.training_s for _, cost in runs]):.0f}",
    ]


def _spread(values: list[float], digits: int) -> str:
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def teacher_rows(labelled: LabelRecord, first: ClassifierRecord) -> list[list[str]]:
    """The commonest label, and the teacher by way of calibration."""
    found = {"the commonest label": first.gold["majority"]}
    found |= {f"teacher, {way}": scores for way, scores in labelled.gold.items()}
    return [[name, *_cells(scores)] for name, scores in found.items()]


def _cells(scores: Scores) -> list[str]:
    ece = "" if scores.ece is None else f"{scores.ece:.3f}"
    return [f"{100 * scores.accuracy:.1f}", f"{scores.macro_f1:.3f}", ece, "", ""]


def compare(arguments: argparse.Namespace) -> None:
    """Make or read all runs, and print the table."""
    split(read_tweets(arguments.sentiment), arguments.work, arguments.task)
    labelled = label(arguments)
    ways = [(source, mode) for mode in arguments.modes for source in SOURCES]
    runs = {way: [train(arguments, *way, seed) for seed in arguments.seeds] for way in ways}
    first, cost = runs[ways[0]][0]
    rows = teacher_rows(labelled, first)
    rows += [row_of(f"student, {mode}, {source} labels", runs[source, mode]) for source, mode in ways]
    print(markdown_table(["", "accuracy, %", "macro-F1", "ECE", "agreement, held out, %", "training, s"], rows))
    errors = first.gold["student"]
    print(f"standard error of an accuracy on {errors.texts} tweets: {100 * errors.accuracy_se:.1f} points")
    for name, each in (("teacher", labelled.cost), ("student", cost.student)):
        size = f"{each.parameters:,} parameters, {each.weight_bytes / 1e6:.1f} MB"
        print(f"{name}: {each.ms_per_text:.1f} ms per tweet, {size}, peak {each.peak_rss_bytes / 1e6:,.0f} MB")
    whole = {
        "environment": environment(None),
        "labels": msgspec.to_builtins(labelled),
        "runs": {f"{source}-{mode}": msgspec.to_builtins(found) for (source, mode), found in runs.items()},
    }
    (arguments.work / "comparison.json").write_text(json.dumps(whole, indent=2), encoding="utf-8")


def main() -> int:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description="Classifiers from synthetic labels, beside gold ones.")
    parser.add_argument("sentiment", type=Path, help="folder of the tweets")
    parser.add_argument("--student", required=True, help="Hugging Face directory of the encoder")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--teacher", default="smollm2-135m-instruct", help="anything edgepress opens")
    parser.add_argument("--task", type=Path, help="in place of the task in this script")
    parser.add_argument("--settings", type=Path, help="of the classifier")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", choices=("head", "whole"), default=["head", "whole"])
    return exit_code(lambda: compare(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
