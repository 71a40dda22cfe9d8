"""Answers of a small teacher as a black box, and how near a student's own answers are to it.

    python benchmarks/peers/story_answers.py make TEACHER OUT [--prompts 2048] [--seed 0]
    python benchmarks/peers/story_answers.py judge TEACHER STUDENT --text OUT/held-out.jsonl [--seed 0]

``make`` has a llama2.c model write texts of 64 tokens, of which the words in the first 16 are the prompt:
OUT/answers.jsonl, OUT/held-out.jsonl (256 other ones) and OUT/text.txt (others again, to train a student of any
language at all). ``judge`` opens the black box: the exact KL divergence of the teacher from the student on what the
student writes (reverse KL, nats per token), and that of the student from the teacher on the teacher's held-out answers
(forward KL), each with its standard error over prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.peers.script import exit_code
from edgepress.compress.distill.gad.pairs import read_pairs
from edgepress.compress.student.open import open_student
from edgepress.progress import progress
from edgepress.runtime.text import TextCodec
from edgepress.runtime.torch_reference import load_model

LENGTH, PROMPT, ANSWER = 64, 16, 32
HELD_OUT, BATCH, SAMPLES = 256, 128, 4


def written(model: Any, prompts: list[Any], most: int, seed: int) -> list[list[int]]:
    """What a model writes after prompts; nothing ends it."""
    import torch

    from edgepress.compress.distill.gad.answers import write_answers

    generator, found = torch.Generator().manual_seed(seed), []
    with progress("writing", len(prompts)) as advance:
        for start in range(0, len(prompts), BATCH):
            found += write_answers(model, prompts[start : start + BATCH], most, frozenset(), generator)
            advance(BATCH)
    return found


def make(teacher: str, out: Path, prompts: int, plain: int, seed: int) -> None:
    """Write the three files."""
    source = open_student(teacher)
    codec = TextCodec(source.tokenizer_dir)
    opening = [] if codec.bos is None else [codec.bos]
    texts = written(load_model(source), [opening] * (prompts + HELD_OUT + plain), LENGTH, seed)
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("answers", texts[:prompts]), ("held-out", texts[prompts : prompts + HELD_OUT])):
        lines = []
        for text in part:
            prompt, whole = codec.decode(text[:PROMPT]).rpartition(" ")[0], codec.decode(text)
            lines.append(json.dumps({"prompt": prompt, "answer": whole[len(prompt) :]}))
        (out / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rest = "\n".join(codec.decode(text).strip() for text in texts[prompts + HELD_OUT :])
    (out / "text.txt").write_text(rest + "\n", encoding="utf-8")


def judge(teacher: str, student: str, text: str, seed: int) -> dict[str, float]:
    """Both divergences."""
    import torch

    from edgepress.compress.distill.gad.answers import block

    source = open_student(teacher)
    pairs = read_pairs(TextCodec(source.tokenizer_dir), (text,), ANSWER, source.spec.context)
    models = load_model(source).eval(), load_model(open_student(student)).eval()
    prompts = [pair.prompt for pair in pairs for _ in range(SAMPLES)]
    own = block(prompts, written(models[1], prompts, ANSWER, seed))
    given = block([pair.prompt for pair in pairs], [pair.answer for pair in pairs])
    found: dict[str, float] = {}
    with torch.no_grad():
        for name, texts, order in (("reverse_kl", own, (1, 0)), ("forward_kl", given, (0, 1))):
            sums: list[float] = []
            for _, piece in texts.pieces(8192):
                p, q = (torch.log_softmax(models[place](piece.tokens).logits[:, :-1], -1) for place in order)
                away = (p.exp() * (p - q)).sum(-1) * piece.answered
                sums += (away.sum(1) / piece.answered.sum(1)).tolist()
            each = np.reshape(sums, (len(pairs), -1)).mean(1)
            found |= {name: float(each.mean()), f"{name}_se": float(each.std(ddof=1) / len(each) ** 0.5)}
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Answers of a story model, and how near a student's are.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("make", "judge"):
        command = commands.add_parser(name)
        command.add_argument("teacher")
        command.add_argument("other", help="output directory, or the student")
        command.add_argument("--seed", type=int, default=0)
    commands.choices["make"].add_argument("--prompts", type=int, default=2048)
    commands.choices["make"].add_argument("--plain", type=int, default=4096)
    commands.choices["judge"].add_argument("--text", required=True)
    options = parser.parse_args()
    if options.command == "make":
        return exit_code(
            lambda: make(options.teacher, Path(options.other), options.prompts, options.plain, options.seed)
        )
    return exit_code(
        lambda: print(json.dumps(judge(options.teacher, options.other, options.text, options.seed), indent=2))
    )


if __name__ == "__main__":
    sys.exit(main())
