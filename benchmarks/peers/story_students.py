"""Small natural students: a llama2.c model, and a qwen3 and a gemma3 model that learn from it on text of its own.

    python benchmarks/peers/story_students.py CHECKPOINT.bin TOKENIZER.bin OUT [--minutes 5] [--seed 0]

Writes OUT/llama, OUT/qwen3 and OUT/gemma3, Hugging Face directories in float32 with one tokenizer, and
OUT/calibration.txt, which the llama2.c model wrote; students for ``against_llama_quantize.py``. Every one has
structure in its weights that random ones lack, and none was ever rounded. The two learners minimise the KL divergence
from the llama2.c model, all tokens alike, AdamW with a cosine schedule, for as many minutes as are given; the loss on
windows that were held out is printed and stored in ``training.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.files import atomic_directory
from edgepress.benchmarks.peers.llama2c import write_student
from edgepress.benchmarks.peers.script import exit_code
from edgepress.compress.calibrate.self_generate import generate_windows
from edgepress.compress.student.open import open_student
from edgepress.progress import progress, say
from edgepress.runtime.text import TextCodec
from edgepress.runtime.torch_reference import load_model

Windows = NDArray[np.int32]

# Widths of multiples of 32 but not of 256, and gemma3's five layers of sliding attention to one of full attention.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 96,
        "intermediate_size": 224,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 32,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 128,
    },
}
LENGTH, BATCH, PEAK_RATE, HELD_OUT = 256, 8, 3e-3, 32


def new_model(family: str, teacher: Any, seed: int) -> Any:
    """A model of random weights with the teacher's vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shared = {name: getattr(teacher.config, name) for name in ("vocab_size", "bos_token_id", "eos_token_id")}
    config = AutoConfig.for_model(
        **SHAPES[family], **shared, pad_token_id=None, max_position_embeddings=512, tie_word_embeddings=True
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def divergence(teacher: Any, student: Any, batch: Any) -> Any:
    """Mean KL divergence of the student from the teacher, nats per token; batch (windows, length)."""
    import torch

    with torch.no_grad():
        wanted = torch.log_softmax(teacher(batch).logits, -1)
    got = torch.log_softmax(student(batch).logits, -1)
    return (wanted.exp() * (wanted - got)).sum(-1).mean()


def train(teacher: Any, student: Any, windows: Windows, minutes: float, seed: int) -> dict[str, float]:
    """Distil; returns steps and the held-out divergence."""
    import torch

    held_out, texts = (torch.from_numpy(part.astype(np.int64)) for part in (windows[:HELD_OUT], windows[HELD_OUT:]))
    optimizer = torch.optim.AdamW(student.parameters(), lr=PEAK_RATE, weight_decay=0.01, betas=(0.9, 0.95))
    rng, started, steps, done = np.random.default_rng(seed), time.monotonic(), 0, 0.0
    with progress("training", 100) as advance:
        while done < 1:
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * min(1.0, (steps + 1) / 50) * (0.05 + 0.95 * math.cos(done * math.pi / 2) ** 2)
            loss = divergence(teacher, student, texts[rng.choice(len(texts), BATCH, replace=False)])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            now = min(1.0, (time.monotonic() - started) / 60 / minutes)
            advance(int(100 * now) - int(100 * done))
            done = now
    with torch.no_grad():
        return {"steps": steps, "held_out_kld": float(divergence(teacher, student, held_out))}


def write_directory(model: Any, tokenizer: Path, out: Path) -> None:
    """Write a trained model beside a copy of the tokenizer's files."""
    with atomic_directory(out) as working:
        model.save_pretrained(working)
        for file in tokenizer.glob("tokenizer*"):
            shutil.copy(file, working / file.name)


def make_students(options: argparse.Namespace) -> None:
    """Write everything.

    Raises:
        InputError: the llama2.c files cannot be read, or the directory is there already.
    """
    first = options.out / "llama"
    options.out.mkdir(parents=True, exist_ok=True)
    write_student(options.checkpoint, options.tokenizer, first)
    source, codec = open_student(str(first)), TextCodec(first)
    windows = generate_windows(source, codec, options.windows, LENGTH, options.seed)
    texts = [codec.decode(window.tolist()).strip() for window in windows[HELD_OUT:]]
    (options.out / "calibration.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    teacher, records = load_model(source).eval(), {}
    for family in SHAPES:
        model = new_model(family, teacher, options.seed)
        records[family] = train(teacher, model, windows, options.minutes, options.seed)
        say(f"{family}: {records[family]}")
        write_directory(model, first, options.out / family)
    (options.out / "training.json").write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Small natural students from a llama2.c model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--windows", type=int, default=2048, help="of 256 tokens that the llama2.c model writes")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each student")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return exit_code(lambda: make_students(options))


if __name__ == "__main__":
    sys.exit(main())
