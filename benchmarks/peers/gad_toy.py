"""Adversarial distillation beside plain cross-entropy at equal tokens, on a toy where everything can be counted out.

    python benchmarks/peers/gad_toy.py STUDENT [--seeds 3] [--warm-up 1] [--rate 0.001] [--alone 16]

STUDENT is a small model of at least 130 tokens, of random weights. The teacher gives one of eight answers of two to
four tokens, with known odds, to every one of twelve prompts. Both students have learned 192 of its answers,
``--warm-up`` times; then one goes on with cross-entropy on the same answers, the other against a discriminator, for as
many answers. Told are the probability of all the teacher's answers together, and the KL divergence of the student from
the teacher over them, in nats, each as a mean over the prompts.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.peers.script import exit_code
from edgepress.compress.distill.gad.config import Adversarial, GadSettings, Guards, WarmUp
from edgepress.compress.distill.gad.pairs import Pair
from edgepress.compress.distill.trainer_state import TrainerState
from edgepress.compress.student.open import open_student
from edgepress.runtime.torch_reference import load_model

END, PROMPTS = 1, [(100 + place, 7) for place in range(12)]
ANSWERS = [(30, 1), (31, 40, 1), (32, 41, 1), (33, 42, 50, 1), (33, 42, 51, 1), (34, 1), (35, 43, 52, 1), (36, 44, 1)]
ODDS = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
TRAIN, HELD_OUT, STEPS, SAMPLES, BATCH = 192, 96, 48, 4, 8


def settings(passes: float, steps: int, seed: int, rate: float = 1e-3, alone: int = 16) -> GadSettings:
    """Of a warm-up of so many passes, and so many steps."""
    return GadSettings(
        warm_up=WarmUp(passes=passes, batch=16, rate=3e-3, checks=8),
        gad=Adversarial(
            steps=steps, discriminator_steps=alone, prompts=BATCH, samples=SAMPLES, answer_tokens=5, rate=rate,
            discriminator_rate=1e-3, checks=6, judge_steps=30, seed=seed,
        ),
        guards=Guards(patience=0),
    )  # fmt: skip


def counted(model: Any) -> dict[str, float]:
    """Probability of the teacher's answers, and divergence from the teacher."""
    from edgepress.compress.distill.gad.answers import block
    from edgepress.compress.distill.gad.policy import log_probs_of

    logs = np.array([[float(log_probs_of(model, block([p], [a]), 999).sum()) for a in ANSWERS] for p in PROMPTS])
    return {"probability": float(np.exp(logs).sum(1).mean()), "kl": float((ODDS * (np.log(ODDS) - logs)).sum(1).mean())}


def compare(student: str, warm_passes: float, rate: float, alone: int, seed: int) -> dict[str, Any]:
    """Both ways from one warm-up, and that."""
    from edgepress.compress.distill.gad.adversary import Adversary
    from edgepress.compress.distill.gad.judge import HeldOut
    from edgepress.compress.distill.gad.progress import GadProgress
    from edgepress.compress.distill.gad.warm_up import warm_up

    rng, found = np.random.default_rng(seed), {}
    drawn = rng.choice(len(ANSWERS), TRAIN + HELD_OUT, p=ODDS).tolist()
    pairs = [Pair(PROMPTS[place % len(PROMPTS)], ANSWERS[answer], True) for place, answer in enumerate(drawn)]
    train, held_out, stops = pairs[:TRAIN], pairs[TRAIN:], frozenset({END})
    with tempfile.TemporaryDirectory() as place:
        more = warm_passes + STEPS * BATCH * SAMPLES / TRAIN
        models = {}
        for name, passes in (("warm-up", warm_passes), ("cross-entropy", more)):
            models[name] = load_model(open_student(student))
            warm_up(models[name], train, held_out, settings(passes, 0, seed), TrainerState(Path(place) / name))
            found[name] = counted(models[name])
        chosen, adversarial = settings(warm_passes, STEPS, seed, rate, alone), copy.deepcopy(models["warm-up"])
        judge = HeldOut(models["warm-up"], held_out, chosen.gad, stops)
        run = Adversary(adversarial, models["warm-up"], train, judge, chosen, stops)
        course = run.train(TrainerState[GadProgress](Path(place) / "gad", GadProgress))
    found["gad"] = counted(adversarial)
    rates = [round(check.win_rate, 3) for check in course.checks]
    return found | {"seed": seed, "win_rates": rates, "ended_by": [ending.guard for ending in course.endings]}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="GAD and cross-entropy on a toy.")
    parser.add_argument("student")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--warm-up", type=float, default=1.0, help="passes")
    parser.add_argument("--rate", type=float, default=1e-3, help="of the student against the discriminator")
    parser.add_argument("--alone", type=int, default=16, help="steps of the discriminator before")
    options = parser.parse_args()

    def work() -> None:
        for seed in range(options.seeds):
            print(json.dumps(compare(options.student, options.warm_up, options.rate, options.alone, seed)), flush=True)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
