"""edgepress beside AutoRound: same student, same calibration text, GGUF q4_0, judged by llama-perplexity.

    iters0     AutoRound without tuning (--iters 0: its optimised rounding)
    tuned      AutoRound tuned (--iters 50 --enable_alg_ext)
    edgepress  gptaq, q4_0 with a q8_0 embedding, which is what AutoRound's files are

AutoRound gets the text as ``--samples`` stretches of ``--length`` tokens; edgepress draws ``--edgepress-samples``
windows of ``--edgepress-length`` from the same text, fewer tokens in all. Each command is a process of its own: wall
time, processor time, and the kernel's high-water mark of its memory. The reference, the engine and the statistics are
llama.cpp's. Both get the same number of threads. AutoRound computes in bfloat16 where the processor has it, which is
its default; ``--autoround-extra=--disable_amp`` keeps it from that.

AutoRound lives in an environment of its own, since it wants other versions than edgepress:

    python -m venv /tmp/ar-venv
    /tmp/ar-venv/bin/pip install 'torch==2.13.0' 'auto-round>=0.16,<0.17' gguf sentencepiece

Take a CPU build of torch; an open range brings several GB of CUDA libraries. From 10 iterations on AutoRound uses
torch.compile, which wants a C++ compiler and Python's headers.

    python benchmarks/peers/against_autoround.py STUDENT --calibration TEXT --evaluation TEXT --tools T --work W \\
        --autoround-python /tmp/ar-venv/bin/python [--variants edgepress iters0 tuned]

``--variants`` runs a part; the rest of the table comes from the JSON of earlier runs in the same work folder, which
must have had the same student, texts and protocol (``--keep-reference`` saves the reference's pass for the next part).
``--seeds 3`` takes the whole on three stretches of the calibration text, and ends with the mean and the deviation.
The exit code is 3 when edgepress's mean divergence is not below tuned AutoRound's, or its wall time is above
``--wall-limit`` of tuned AutoRound's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from edgepress.benchmarks.peers.autoround import SPARE, AutoRound, write_samples
from edgepress.benchmarks.peers.autoround_results import VARIANTS, compare, entries_of, merge, table, types_apart
from edgepress.benchmarks.peers.edgepress_file import calibration_section, compress_and_export
from edgepress.benchmarks.peers.llama_tools import Tools, system_info
from edgepress.benchmarks.peers.measured import Run
from edgepress.benchmarks.peers.record import environment
from edgepress.benchmarks.peers.reference import Reference
from edgepress.benchmarks.peers.stretches import spread_of_entries, spread_table
from edgepress.benchmarks.peers.texts import cut_tokens, describe, read
from edgepress.compress.calibrate.overlap import refuse_overlap
from edgepress.errors import EdgepressError

STEP = {"step": "quantize", "solver": "gptaq", "format": "q4_0", "embedding": "q8_0"}
# What has to be equal for results of two runs to stand in one table.
PROTOCOL = ("chunks", "context", "samples", "length", "threads")


def prepare_text(options: argparse.Namespace, work: Path, stretch: int) -> tuple[Path, Path]:
    """One stretch of the calibration text, as text for edgepress and as JSON lines for AutoRound."""
    student, tokens = options.student.resolve(), options.samples * options.length
    text = cut_tokens(read(options.calibration), student, skip=stretch * tokens, tokens=tokens + SPARE)
    refuse_overlap([text], [read(options.evaluation)], "take other text")
    plain, lines = work / "calibration.txt", work / "calibration.jsonl"
    plain.write_text(text, encoding="utf-8")
    write_samples(text, student, lines, samples=options.samples, length=options.length)
    return plain, lines


def make(
    variant: str, options: argparse.Namespace, work: Path, student: Path, texts: tuple[Path, Path]
) -> tuple[Path, list[Run], dict[str, Any]]:
    """One variant's file, what it took, and what else its maker says."""
    folder = work / variant
    if variant == "edgepress":
        windows = (options.edgepress_samples, options.edgepress_length, options.seed)
        path, making = compress_and_export(student, calibration_section(texts[0], *windows), STEP, folder)
        return path, making, {"calibration_tokens": windows[0] * windows[1]}
    autoround = AutoRound(
        python=options.autoround_python.absolute(), threads=options.threads, extra=tuple(options.autoround_extra)
    )
    chosen = ["--iters", "0"] if variant == "iters0" else ["--iters", str(options.tuned_iters), "--enable_alg_ext"]
    size = {"samples": options.samples, "length": options.length}
    versions = autoround.about(work / "autoround.json")
    path, run, said = autoround.quantize(student, texts[1], folder, chosen, **size)
    about = {"versions": versions, "said": msgspec.to_builtins(said)}
    return path, [run], {"calibration_tokens": said.samples * options.length, **about}


def run_variants(
    options: argparse.Namespace, reference: Reference, work: Path, texts: tuple[Path, Path]
) -> dict[str, dict[str, Any]]:
    """Make and judge every asked variant; name → what the JSON keeps of it."""
    found = {}
    for variant in options.variants:
        load_before = os.getloadavg()
        path, making, extra = make(variant, options, work, reference.student, texts)
        load = {"load_average_before": load_before, "load_average_after": os.getloadavg()}
        maker = "edgepress" if variant == "edgepress" else "AutoRound"
        entry = reference.judge(path, "q4_0", maker, variant, making, work / f"judged-{variant}.log")
        found[variant] = msgspec.to_builtins(entry, enc_hook=str) | extra | load
    return found


def common_facts(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """What every variant in one table must have had, in JSON's types."""
    facts = {name: getattr(options, name) for name in PROTOCOL}
    texts = {"calibration": describe(work / "calibration.txt"), "evaluation": describe(options.evaluation)}
    weights = [[file.name, file.stat().st_size] for file in sorted(options.student.glob("*.safetensors"))]
    student = {"student": str(options.student.resolve()), "weights": weights}
    return facts | {name: text["sha256"] for name, text in texts.items()} | student


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="edgepress beside AutoRound on one student, at q4_0.")
    parser.add_argument("student", type=Path, help="a Hugging Face directory, off its quantization grid")
    parser.add_argument("--calibration", type=Path, required=True, help="plain text")
    parser.add_argument("--evaluation", type=Path, required=True, help="plain text, nothing of the calibration in it")
    parser.add_argument("--tools", type=Path, required=True, help="the folder that build_llama_tools.py filled")
    parser.add_argument("--work", type=Path, required=True, help="folder for files, logs and against_autoround.json")
    parser.add_argument("--autoround-python", type=Path, default=Path("/tmp/ar-venv/bin/python"))
    parser.add_argument("--autoround-extra", action="append", default=[], help="one more argument for AutoRound")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--chunks", type=int, default=80)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--samples", type=int, default=64, help="of AutoRound; with --length also the text's size")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--tuned-iters", type=int, default=50)
    parser.add_argument("--edgepress-samples", type=int, default=64)
    parser.add_argument("--edgepress-length", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1, help="stretches of the calibration text, one after another")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep-reference", action="store_true", help="leave the log-probabilities for the next part")
    parser.add_argument("--wall-limit", type=float, default=1 / 3, help="edgepress's share of tuned AutoRound's time")
    return parser.parse_args()


def run_stretch(options: argparse.Namespace, reference: Reference, work: Path, stretch: int) -> dict[str, Any]:
    """Run the variants on one stretch and write the document, merged with what is there."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "against_autoround.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    texts = prepare_text(options, work, stretch)
    common = common_facts(options, work)
    merge(earlier, common, {})  # refuses before the work
    document = merge(earlier, common, run_variants(options, reference, work, texts))
    entries = entries_of(document)
    log = (work / f"judged-{options.variants[-1]}.log").read_text(encoding="utf-8", errors="replace")
    document["options"] = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    document["environment"] = environment(system_info(log))
    document["compared"] = compare(entries) | {"tensors_of_another_type": types_apart(entries)}
    path.write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")
    return document


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All stretches of the calibration text against one reference; a document each."""
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for edgepress as for AutoRound
    tools = Tools(folder=options.tools.resolve(), threads=options.threads)
    size: dict[str, Any] = {"chunks": options.chunks, "context": options.context, "keep": options.keep_reference}
    with Reference(work, options.student.resolve(), options.evaluation.resolve(), tools, **size) as reference:
        folders = [work] if options.seeds == 1 else [work / f"stretch-{each}" for each in range(options.seeds)]
        return [run_stretch(options, reference, folder, stretch) for stretch, folder in enumerate(folders)]


def print_documents(documents: list[dict[str, Any]]) -> None:
    """A table and the ratios of each stretch, and the spread over several."""
    for document in documents:
        print(table(entries_of(document)))
        for name, value in document["compared"].items():
            print(f"{name}: {value}")
    if len(documents) > 1:
        print(spread_table(spread_of_entries([list(entries_of(document).values()) for document in documents]), []))


def missed(document: dict[str, Any], wall_limit: float) -> bool:
    """Whether edgepress lost more than tuned AutoRound, or took more than its share of the time."""
    compared = document["compared"]
    return bool(compared.get("kld_ratio_to_tuned", 0) >= 1 or compared.get("wall_ratio_to_tuned", 0) > wall_limit)


def main() -> int:
    """Run, print the tables and the ratios."""
    options = parse_arguments()
    try:
        documents = run(options)
    except EdgepressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_documents(documents)
    return 3 if any(missed(document, options.wall_limit) for document in documents) else 0


if __name__ == "__main__":
    sys.exit(main())
