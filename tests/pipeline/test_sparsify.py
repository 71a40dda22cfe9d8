"""Zeros survive to the files, and whoever reads the report is told what they are good for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pressing import RECIPE, made, press
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import LINEARS, layer_name
from edgepress.artifact.tensorrt_layout import read_layout
from edgepress.compress.prune.config import PruneFfn, Sparsify
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.pipeline.prune import plan_before
from edgepress.recipe import CompressStep, Recipe, parse_recipe
from edgepress.runtime.trtexec import build_script

NAMES = [layer_name(index, part) for index in range(2) for part in LINEARS.values()]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir("llama", tmp_path_factory.mktemp("sparse") / "student")


def recipe(*steps: CompressStep, format: str = "q4_0", **fields: Any) -> Recipe:
    quantize = QuantizeStep(solver="scale_search", format=format, embedding="f16")
    return msgspec.structs.replace(RECIPE, compress=(*steps, quantize), **fields)


def shares(values: np.ndarray) -> np.ndarray:
    """Zeros in every four neighbouring inputs."""
    found: np.ndarray = (values.reshape(len(values), -1, 4) == 0).sum(-1)
    return found


@pytest.mark.parametrize("format", ["q4_0", "q8_0", "f16"])
@pytest.mark.parametrize("method", ["sparsegpt", "wanda", "magnitude"])
def test_two_of_four_are_zero_in_what_ships(student: Path, tmp_path: Path, format: str, method: Any) -> None:
    out = tmp_path / "out"
    manifest = press(student, out, recipe(Sparsify(method=method), format=format), ("gguf",))
    checkpoint = Checkpoint(out / "checkpoint")
    assert all(shares(checkpoint.read(name)).min() >= 2 for name in NAMES)
    assert all(np.median(shares(checkpoint.read(name))) == 2 for name in NAMES)
    assert "their files are neither smaller nor faster" in manifest.lineage.student_notes[-1]
    before = made(out, "pruned-1")
    press(student, out, recipe(Sparsify(method=method), format=format), ("gguf",))
    assert made(out, "pruned-1") == before


def test_it_follows_other_steps(student: Path, tmp_path: Path) -> None:
    steps = (PruneFfn(keep=0.75, widths="uniform"), Sparsify(pattern="anywhere", share=0.3))
    press(student, tmp_path / "out", recipe(*steps), ("gguf",))
    sparse = Checkpoint(tmp_path / "out" / "pruned-2")
    assert sparse.spec.layers[0].ffn == 96
    for name in NAMES:
        assert (sparse.read(name) == 0).mean() == pytest.approx(0.3, abs=0.01)


def test_tensorrt_is_told_of_the_pattern(student: Path, tmp_path: Path) -> None:
    press(student, tmp_path / "sparse", recipe(Sparsify(), format="f16", export=("tensorrt",)), ("tensorrt",))
    press(student, tmp_path / "dense", recipe(format="f16", export=("tensorrt",)), ("tensorrt",))
    sparse, dense = (read_layout(tmp_path / name / "tensorrt") for name in ("sparse", "dense"))
    assert (sparse.sparse_weights, dense.sparse_weights) == (1, 0)
    assert "--sparsity=enable" in build_script(sparse)
    assert "--sparsity" not in build_script(dense)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("{step: sparsify}, {step: prune_ffn, keep: 0.5}", "sparsify comes last before quantize"),
        ("{step: sparsify}, {step: distill, tokens: 9}", "sparsify comes last before quantize"),
        ("{step: sparsify}, {step: quantize, solver: gptaq}", "would fill the zeros"),
        ("{step: sparsify}, {step: quantize, target_mb: 9}", "would fill the zeros"),
        ("{step: sparsify}, {step: quantize, prepare: [rotate_v_o]}", "would fill the zeros"),
        (
            "{step: sparsify}, {step: quantize, format: iq4_nl}",
            "iq4_nl behind sparsify: it has no zero; formats that do",
        ),
        ("{step: sparsify}, {step: quantize, formats: {'*.ffn_down': q4_1}}", "q4_1 behind sparsify"),
        ("{step: sparsify, pattern: '1:4'}", "'1:4' at compress"),
        ("{step: sparsify, share: 1}", "share"),
    ],
)
def test_what_would_undo_it_is_refused(steps: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_recipe(f"compress: [{steps}]", "R")


def test_zeros_that_were_filled_are_no_pattern(student: Path, tmp_path: Path) -> None:
    press(student, tmp_path / "sparse", recipe(Sparsify(), format="f16"), ("gguf",))
    gptaq = msgspec.structs.replace(
        RECIPE, compress=(QuantizeStep(solver="gptaq", format="trt_int4_64", embedding="f16"),), export=("tensorrt",)
    )
    press(tmp_path / "sparse" / "checkpoint", tmp_path / "out", gptaq, ("tensorrt",))
    assert read_layout(tmp_path / "out" / "tensorrt").sparse_weights == 0


def test_widths_that_a_step_before_would_leave_are_refused(student: Path) -> None:
    odd = recipe(PruneFfn(keep=0.9, multiple_of=2), Sparsify(), format="f16")
    with pytest.raises(InputError, match="multiple_of 2 in front of sparsify, whose groups are 4 inputs"):
        plan_before(open_student(str(student)), odd, ())


def test_widths_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    odd = make_model_dir("llama", tmp_path / "student", intermediate_size=130)
    with pytest.raises(InputError, match="130 inputs do not divide into groups of 4; use pattern: anywhere"):
        plan_before(open_student(str(odd)), recipe(Sparsify(), format="f16"), ())
