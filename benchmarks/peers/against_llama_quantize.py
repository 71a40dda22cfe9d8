"""edgepress beside llama-quantize: same student, same calibration text, same types, judged by llama-perplexity.

    1  a float32 GGUF of the student by llama.cpp's converter: the reference, and what llama-quantize reads
    2  llama-imatrix on the calibration text; llama-quantize with it, and without
    3  edgepress on the same text, with the type of every tensor read from llama-quantize's file:
       gptaq and scale_search stand against llama-quantize with the importance matrix, nearest against it without;
       budget is gptaq with types of its own choice, in at most --budget-share of llama-quantize's bytes;
       one share for all formats, or one each; gptaq_qad and budget_qad train codes and scales afterwards
    4  llama-perplexity: KL divergence of every file from the reference on the evaluation text

With ``--seeds 3`` steps 2 to 4 are taken on three stretches of the calibration text that have nothing in common,
against the same reference, and a last table has the mean and the standard deviation over them.

Neither side judges itself: the reference, the engine and the statistics are llama.cpp's throughout, so an error in our
export counts as loss. Prints a table and writes everything, commands and raw numbers included, as JSON.

    python benchmarks/peers/against_llama_quantize.py STUDENT --calibration TEXT --evaluation TEXT --tools T --work W

STUDENT is a Hugging Face directory, off its quantization grid (off_grid.py). The exit code is 3 when a ratio of mean
divergences, edgepress's scale_search over llama-quantize's, exceeds ``--limit``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from edgepress.benchmarks.peers.gguf_files import identical_tensors, tensor_types, type_differences
from edgepress.benchmarks.peers.judged import Entry
from edgepress.benchmarks.peers.llama_tools import Divergence, Tools, system_info
from edgepress.benchmarks.peers.quantizer_contest import RIVALS, Contest
from edgepress.benchmarks.peers.record import environment, markdown_table
from edgepress.benchmarks.peers.reference import Reference
from edgepress.benchmarks.peers.stretches import spread_of_entries, spread_of_pairs, spread_table
from edgepress.benchmarks.peers.texts import describe
from edgepress.errors import EdgepressError


def pair_up(contest: Contest) -> list[dict[str, Any]]:
    """edgepress against llama-quantize, format by format: ratio of divergences, types and bytes in common."""
    pairs = []
    for kind in contest.options.formats:
        for solver, method in RIVALS.items():
            ours, theirs = contest.find(kind, solver), contest.find(kind, method)
            if ours is None or theirs is None:
                continue
            ratio, error = ratio_with_error(ours.divergence, theirs.divergence)
            same, of = identical_tensors(theirs.path, ours.path)
            pairs.append(
                {
                    "format": kind,
                    "edgepress": solver,
                    "llama_quantize": method,
                    "kld_ratio": ratio,
                    "kld_ratio_se_unpaired": error,
                    "file_bytes_ratio": ours.file_bytes / theirs.file_bytes,
                    "type_differences": type_differences(tensor_types(theirs.path), tensor_types(ours.path)),
                    "identical_tensors": same,
                    "quantized_tensors": of,
                }
            )
    return pairs


def ratio_with_error(ours: Divergence, theirs: Divergence) -> tuple[float, float]:
    """Ratio of mean divergences and its standard error as if the two were independent, which overstates it."""
    ratio = ours.kld_mean / theirs.kld_mean
    relative = (ours.kld_se / ours.kld_mean) ** 2 + (theirs.kld_se / theirs.kld_mean) ** 2
    return ratio, ratio * relative**0.5


def run_contests(options: argparse.Namespace) -> list[Contest]:
    """One contest for each stretch of calibration text, all against one reference."""
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    tools = Tools(folder=options.tools.resolve(), threads=options.threads)
    size = {"chunks": options.chunks, "context": options.context}
    reference = Reference(work, options.student.resolve(), options.evaluation.resolve(), tools, **size)
    contests = []
    for stretch in range(options.seeds):
        folder = work if options.seeds == 1 else work / f"stretch-{stretch}"
        skip = options.calibration_skip + stretch * options.calibration_chunks
        contests.append(Contest(options, reference, folder, skip=skip))
        contests[-1].prepare_text()
    with reference:
        contests[0].judge_reference()
        for contest in contests:
            contest.run()
    return contests


def document(contest: Contest, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """What one contest did and found."""
    return {
        "calibration_skip": contest.skip,
        "calibration": describe(contest.calibration),
        "runs": {name: msgspec.to_builtins(run) for name, run in contest.runs.items()},
        "entries": [msgspec.to_builtins(entry, enc_hook=str) for entry in contest.entries],
        "pairs": pairs,
    }


def header(first: Contest) -> dict[str, Any]:
    """What all contests have in common; with :func:`document` everything needed to check or repeat the comparison."""
    options = first.options
    log = (first.work / "judged-llama.cpp-f32-reference.log").read_text(encoding="utf-8", errors="replace")
    return {
        "student": str(first.student),
        "options": {name: value for name, value in vars(options).items() if not isinstance(value, Path)},
        "texts": {
            "calibration_source": describe(options.calibration),
            "evaluation": describe(options.evaluation),
        },
        "tools": first.tools.about(),
        "environment": environment(system_info(log)),
    }


def table(entries: list[Entry]) -> str:
    """The entries as a Markdown table."""
    heads = ["format", "by", "method", "token_embd", "file bytes", "mean KLD ± se", "99 % KLD"]
    heads += ["same top %", "PPL ± se", "made in s", "peak RSS MB"]
    rows = []
    for entry in entries:
        lost = entry.divergence
        rows.append(
            [
                *(entry.format, entry.maker, entry.method, entry.embedding, f"{entry.file_bytes:,}"),
                f"{lost.kld_mean:.5f} ± {lost.kld_se:.5f}",
                f"{lost.kld_p99:.4f}",
                f"{lost.top1_agreement_percent:.2f}",
                f"{lost.ppl:.3f} ± {lost.ppl_se:.3f}",
                f"{entry.wall_s:.1f}",
                f"{entry.peak_rss_bytes / 1e6:.0f}",
            ]
        )
    return markdown_table(heads, rows)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="edgepress beside llama-quantize on one student.")
    parser.add_argument("student", type=Path, help="a Hugging Face directory, off its quantization grid")
    parser.add_argument("--calibration", type=Path, required=True, help="plain text")
    parser.add_argument(
        "--evaluation", type=Path, required=True, help="plain text with nothing of the calibration in it"
    )
    parser.add_argument("--tools", type=Path, required=True, help="the folder that build_llama_tools.py filled")
    parser.add_argument("--work", type=Path, required=True, help="folder for files, logs and comparison.json")
    parser.add_argument("--formats", nargs="+", default=["q8_0", "q4_0"], help="llama-quantize's names, any case")
    parser.add_argument("--solvers", nargs="+", choices=list(RIVALS), default=["gptaq", "nearest"])
    parser.add_argument(
        "--budget-share", type=float, nargs="+", default=[1.0], help="of llama-quantize's bytes: one, or one per format"
    )
    parser.add_argument("--token-embedding-type", help="passed to llama-quantize; edgepress follows its file")
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--calibration-chunks", type=int, default=128)
    parser.add_argument("--calibration-context", type=int, default=512)
    parser.add_argument("--solver-chunks", type=int, help="of the calibration text for our solver; all unless given")
    parser.add_argument("--qad-tokens", type=int, default=120_000, help="that gptaq_qad and budget_qad train on")
    parser.add_argument("--calibration-skip", type=int, default=0, help="chunks to leave out at the start of the text")
    parser.add_argument("--seeds", type=int, default=1, help="stretches of the calibration text, one after another")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=float, default=1.05, help="largest ratio of mean divergences that passes")
    parser.add_argument("--only-llama", action="store_true", help="llama.cpp's numbers alone")
    options = parser.parse_args()
    if len(set(options.formats)) < len(options.formats):
        parser.error("--formats: a format is named twice")
    if len(options.budget_share) not in (1, len(options.formats)):
        parser.error(f"--budget-share: {len(options.budget_share)} shares for {len(options.formats)} formats")
    return options


def print_contest(contest: Contest, pairs: list[dict[str, Any]]) -> None:
    """The table of one contest, and a line for each pair."""
    print(table(contest.entries))
    for pair in pairs:
        print(
            f"{pair['format']}: edgepress {pair['edgepress']} / llama-quantize {pair['llama_quantize']} = "
            f"{pair['kld_ratio']:.4f} ± {pair['kld_ratio_se_unpaired']:.4f}; "
            f"{len(pair['type_differences'])} tensors differ in type; "
            f"{pair['identical_tensors']} of {pair['quantized_tensors']} are identical to the byte"
        )


def main() -> int:
    """Run the comparison, print the tables, write comparison.json."""
    options = parse_arguments()
    try:
        contests = run_contests(options)
    except EdgepressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    pairs = [pair_up(contest) for contest in contests]
    record = header(contests[0])
    documents = [document(contest, found) for contest, found in zip(contests, pairs, strict=True)]
    for contest, found in zip(contests, pairs, strict=True):
        print_contest(contest, found)
    if len(contests) == 1:
        record |= documents[0]
    else:
        entries = spread_of_entries([contest.entries for contest in contests])
        ratios = spread_of_pairs(pairs)
        record |= {"stretches": documents, "spread_entries": entries, "spread_pairs": ratios}
        print(spread_table(entries, ratios))
    path = contests[0].reference.work / "comparison.json"
    path.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    judged = [pair["kld_ratio"] for found in pairs for pair in found if pair["edgepress"] == "scale_search"]
    return 3 if any(ratio > options.limit for ratio in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
