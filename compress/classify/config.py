"""What the training of a classifier can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
import yaml

from edgepress.compress.bounds import Count, Natural, Positive, Seed, Weight
from edgepress.compress.calibrate.tokens import read_text, require_file
from edgepress.errors import InputError

Mode = Literal["head", "whole"]


class ClassifierSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A settings file.

    mode           head: the head alone, on frozen features; whole: then all weights from there
    targets        soft: the teacher's probabilities; hard: its likeliest label
    length         tokens of a text at most; what is behind them is cut off
    held_out       share of the texts that judge
    ridge          of the head's weights on standardised features; None takes the best of a few by the held-out texts
    epochs         passes over the texts
    batch          texts of a step; gathered in pieces of ``piece`` texts of like length: less memory, less padding
    rate           the highest learning rate of AdamW, after ``warm_up``, a share of the steps, and before a cosine to 0
    weight_decay   of matrices, not of gains and biases
    checks         how often the held-out divergence is taken, evenly over the run
    patience       checks without a better one before the run ends; 0 runs to the end
    save_steps     steps between saved states
    precision      auto multiplies in bfloat16 where the processor does so natively
    seed           of what is held out, the order of the texts, dropout and weights that the student lacks
    """

    mode: Mode = "whole"
    targets: Literal["soft", "hard"] = "soft"
    length: Annotated[int, msgspec.Meta(ge=4)] = 128
    held_out: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.125
    ridge: Positive | None = None
    epochs: Count = 4
    batch: Count = 32
    piece: Count = 16
    rate: Positive = 5e-5
    warm_up: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    weight_decay: Weight = 0.01
    checks: Count = 8
    patience: Natural = 3
    save_steps: Count = 50
    precision: Literal["auto", "float32"] = "auto"
    seed: Seed = 0

    def steps(self, texts: int) -> int:
        """Steps of the whole run over so many texts."""
        return max(1, self.epochs * texts // self.texts_in_step(texts))

    def texts_in_step(self, texts: int) -> int:
        """Texts of a step: the batch, or all there are."""
        return min(self.batch, texts)


def read_classifier_settings(path: Path) -> ClassifierSettings:
    """Settings from a YAML file.

    Raises:
        InputError: it cannot be read, is not YAML, or a field does not exist or has a wrong value.
    """
    require_file("--settings", str(path))
    try:
        return msgspec.convert(yaml.safe_load(read_text(path)) or {}, ClassifierSettings)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error


def mode_named(name: str) -> Mode:
    """A way of training by its name.

    Raises:
        InputError: there is none of that name.
    """
    for way in get_args(Mode):
        if name == way:
            found: Mode = way
            return found
    raise InputError(f"--mode {name!r}: unknown; known: {', '.join(get_args(Mode))}")
