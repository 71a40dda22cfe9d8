"""A model that has lost neurons or heads is solved once more as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dropped_layers import divergence, logits
from narrowed_by_hand import narrowed_by_hand
from tiny_models import make_model_dir

from edgepress.artifact.families import LAYER, LINEARS
from edgepress.compress.prune.config import PruneFfn, PruneHeads
from edgepress.compress.prune.layers import prune_widths
from edgepress.compress.prune.parts import WidthStep
from edgepress.compress.prune.removed import REMOVED_FILE
from edgepress.compress.prune.restore import restore
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.runtime.torch_reference import load_model

WINDOWS = np.random.default_rng(1).integers(4, 300, (48, 40)).astype(np.int32)
STEPS: dict[str, WidthStep] = {
    "neurons": PruneFfn(keep=0.5),
    "heads": PruneHeads(keep=0.5),
    "groups": PruneHeads(keep=0.5, unit="groups"),
}
COUNTS = {"neurons": (64, 128), "heads": (2, 4), "groups": (1, 2)}


def restored(family: str, what: str, at: Path) -> CheckpointStudent:
    """Of a model of which every other layer has lost something."""
    source = open_student(str(make_model_dir(family, at / "student", num_hidden_layers=2)))
    for name in ("pruned", "restored"):
        (at / name).mkdir()
    prune_widths(source, STEPS[what], list(COUNTS[what]), WINDOWS, at / "pruned", name="Tiny", bias=False)
    restore(source, at / "pruned", WINDOWS, at / "restored", name="Tiny")
    return CheckpointStudent(at / "restored")


@pytest.mark.parametrize("what", STEPS)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_linear_that_can_be_is_solved_in_turn(family: str, what: str, tmp_path: Path) -> None:
    """Against the same walk in float64 by transformers' layers and numpy; shapes differ by layer, so by our loader."""
    found = restored(family, what, tmp_path)
    before = CheckpointStudent(tmp_path / "pruned")
    whole, pruned = (load_model(source).double() for source in (open_student(str(tmp_path / "student")), before))
    wanted, changes = narrowed_by_hand(whole, pruned, np.arange(64), WINDOWS)
    assert changes >= 2
    for index in range(2):
        for part in LINEARS.values():
            name = f"{LAYER.format(i=index)}{part}.weight"
            hand = wanted.get_parameter(name).detach().numpy()
            # Factors may be bfloat16 where the processor multiplies such.
            change, error = np.linalg.norm(hand - before.read(name)), np.linalg.norm(hand - found.read(name))
            assert error <= 0.06 * change + 1e-6, name


@pytest.mark.parametrize("what", STEPS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_it_brings_the_model_nearer_and_keeps_what_was_removed(family: str, what: str, tmp_path: Path) -> None:
    found = restored(family, what, tmp_path) if family == "llama" else restored_uniform(family, what, tmp_path)
    whole = logits(load_model(open_student(str(tmp_path / "student"))))
    before, after = (
        divergence(whole, logits(load_model(each))) for each in (CheckpointStudent(tmp_path / "pruned"), found)
    )
    assert after < before
    assert (tmp_path / "restored" / REMOVED_FILE).read_bytes() == (tmp_path / "pruned" / REMOVED_FILE).read_bytes()
    assert found.spec == CheckpointStudent(tmp_path / "pruned").spec


def restored_uniform(family: str, what: str, at: Path) -> CheckpointStudent:
    """Of a model of which every layer has lost the same."""
    source = open_student(str(make_model_dir(family, at / "student")))
    for name in ("pruned", "restored"):
        (at / name).mkdir()
    counts = [COUNTS[what][0]] * source.spec.depth
    prune_widths(source, STEPS[what], counts, WINDOWS, at / "pruned", name="Tiny", bias=False)
    restore(source, at / "pruned", WINDOWS, at / "restored", name="Tiny")
    return CheckpointStudent(at / "restored")
