"""Preparation changes the weights as its formulas say, and no logit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

from edgepress.artifact.families import FAMILIES, is_matrix
from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.config import Preparation, QuantizeStep
from edgepress.compress.quantize.prepare.apply import prepare
from edgepress.compress.quantize.prepare.scale_up_down import evening_factors
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core")

Array = NDArray[np.float64]
METHODS: tuple[Preparation, ...] = get_args(Preparation)
WINDOWS = np.random.default_rng(0).integers(4, 300, (4, 40)).astype(np.int32)


def prepared(directory: Path, *methods: Preparation, solver: Any = "scale_search") -> tuple[Student, WeightSource]:
    student = open_student(str(directory))
    step = QuantizeStep(solver=solver, format="q4_0", embedding="f32", prepare=methods)
    return student, prepare(student, step, assign_formats(student, step).formats, WINDOWS)


def logits(source: WeightSource) -> Array:
    """By transformers in float64."""
    with torch.inference_mode():
        output = load_model(source).double()(torch.from_numpy(WINDOWS.astype(np.int64))).logits
    return np.asarray(output.numpy())


def changed(student: WeightSource, model: WeightSource) -> set[str]:
    """Parts whose tensors are others, by their names within a layer."""
    different = {name for name in student.names if not np.array_equal(student.read(name), model.read(name))}
    return {name.split(".", 3)[-1] if ".layers." in name else name for name in different}


def assert_same_function(student: WeightSource, model: WeightSource) -> None:
    before = logits(student)
    np.testing.assert_allclose(logits(model), before, atol=5e-6 * np.abs(before).max())
    assert model.names == student.names
    assert all(model.read(name).shape == student.shape(name) for name in student.names)


@pytest.mark.parametrize("method", METHODS)
def test_the_logits_stay_in_every_family(method: Preparation, family_dir: Path) -> None:
    student, model = prepared(family_dir, method)
    assert changed(student, model)
    assert_same_function(student, model)


def test_the_logits_stay_after_all_of_them_in_any_order(family_dir: Path) -> None:
    for methods in (METHODS, METHODS[::-1]):
        assert_same_function(*prepared(family_dir, *methods))


def test_biases_go_along(tmp_path: Path) -> None:
    directory = make_model_dir("llama", tmp_path / "m", attention_bias=True, mlp_bias=True)
    turned: dict[Preparation, str] = {
        "scale_up_down": "mlp.up_proj.bias",
        "scale_v_o": "self_attn.v_proj.bias",
        "rotate_v_o": "self_attn.v_proj.bias",
    }
    for method, bias in turned.items():
        student, model = prepared(directory, method)
        assert bias in changed(student, model)
        assert_same_function(student, model)


def test_heads_of_a_size_that_is_no_power_of_two_are_rotated(tmp_path: Path) -> None:
    student, model = prepared(make_model_dir("qwen3", tmp_path / "m", head_dim=24), "rotate_v_o")
    assert changed(student, model) == {"self_attn.v_proj.weight", "self_attn.o_proj.weight"}
    assert_same_function(student, model)


def test_each_method_touches_what_it_says_and_nothing_else(llama_dir: Path) -> None:
    norms = {"input_layernorm.weight", "post_attention_layernorm.weight"}
    behind = {f"{part}.weight" for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}
    behind |= {"mlp.gate_proj.weight", "mlp.up_proj.weight"}
    attention = {"self_attn.v_proj.weight", "self_attn.o_proj.weight"}
    wanted: dict[Preparation, set[str]] = {
        "fold_norms": norms | behind,
        "scale_up_down": {"mlp.up_proj.weight", "mlp.down_proj.weight"},
        "scale_v_o": attention,
        "rotate_v_o": attention,
        "awq": norms | behind,
    }
    for method, parts in wanted.items():
        assert changed(*prepared(llama_dir, method)) == parts


def test_folded_norms_are_ones(family_dir: Path) -> None:
    """Also the final one, but only where the head is its own; norms without linears behind them stay."""
    student, model = prepared(family_dir, "fold_norms")
    family = FAMILIES[student.spec.family]
    folded = {part for part, role in family.norms.items() if role in ("attn_norm", "ffn_norm")}
    for name in model.names:
        if name.endswith("norm.weight"):
            part = name.removesuffix(".weight").split(".")[-1]
            if part in folded or (name == "model.norm.weight" and not student.spec.tied):
                np.testing.assert_array_equal(model.read(name) + family.norm_offset, 1)
            else:
                np.testing.assert_array_equal(model.read(name), student.read(name))
    touched = {name for name in ("model.embed_tokens.weight", "lm_head.weight") if name in changed(student, model)}
    assert touched == (set() if student.spec.tied else {"lm_head.weight"})


def test_a_gain_of_zero_stays_zero(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    directory = make_model_dir("llama", tmp_path / "m")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.input_layernorm.weight"][3] = 0
    save_file(tensors, file, metadata={"format": "pt"})
    student, model = prepared(directory, "fold_norms")
    assert model.read("model.layers.0.input_layernorm.weight")[3] == 0
    assert_same_function(student, model)


def test_down_gets_columns_of_equal_norm_and_up_what_they_differed_by(family_dir: Path) -> None:
    student, model = prepared(family_dir, "scale_up_down")
    up, down = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"
    norms = np.linalg.norm(model.read(down), axis=0)
    np.testing.assert_allclose(norms, np.exp(np.log(np.linalg.norm(student.read(down), axis=0)).mean()), rtol=1e-5)
    for i in (0, 17, 100):
        factor = norms[i] / np.linalg.norm(student.read(down)[:, i])
        np.testing.assert_allclose(model.read(up)[i] * factor, student.read(up)[i], rtol=1e-5)


def test_query_heads_of_a_group_share_the_factors_of_its_values(family_dir: Path) -> None:
    student, model = prepared(family_dir, "scale_v_o")
    v, o = "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.o_proj.weight"
    size, shape = student.spec.head_dim, student.spec.layers[0]
    rows = (student.read(v) / model.read(v)).mean(axis=1)
    columns = (model.read(o) / student.read(o)).mean(axis=0)
    for head, feature in product(range(shape.heads), (0, 5)):
        group = head // (shape.heads // shape.kv_heads)
        assert columns[head * size + feature] == pytest.approx(rows[group * size + feature], rel=1e-4)
    loudest = np.linalg.norm(model.read(o), axis=0).reshape(shape.kv_heads, -1, size).max(axis=1)
    np.testing.assert_allclose(loudest, loudest[0, 0], rtol=1e-5)


def test_even_columns_are_the_best_there_is() -> None:
    """For a block whose columns have one magnitude each: no other factors bring Σ (step · x_i / s_i)² lower."""
    rng = np.random.default_rng(0)
    magnitude, energy = rng.uniform(0.1, 3, 32), rng.uniform(0.1, 3, 32)

    def error(factors: Array) -> float:
        return float((magnitude * factors).max() ** 2 * (energy / factors**2).sum())

    least = error(evening_factors(magnitude**2))
    assert least == pytest.approx(float((energy * magnitude**2).sum()))
    assert all(error(np.exp(rng.normal(scale=0.5, size=32)) / magnitude) >= least for _ in range(500))
    assert all(error(np.exp(rng.normal(size=32))) >= least for _ in range(500))


def test_a_column_of_zeros_is_left_alone() -> None:
    factors = evening_factors(np.asarray([4.0, 0.0, 1.0]))
    np.testing.assert_allclose(factors, [2**-0.5, 1, 2**0.5])
    np.testing.assert_array_equal(evening_factors(np.zeros(3)), 1)


@pytest.mark.parametrize("solver", ["nearest", "gptaq"])
def test_awq_works_with_the_other_solvers(solver: str, llama_dir: Path) -> None:
    student, model = prepared(llama_dir, "awq", solver=solver)
    assert_same_function(student, model)


def test_other_preparations_are_other_models(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    digests = {prepared(llama_dir, method)[1].digest() for method in METHODS} | {student.digest()}
    assert len(digests) == 1 + len(METHODS)
    assert prepared(llama_dir, "awq")[1].digest() in digests


def test_an_empty_list_is_the_student_itself(llama_dir: Path) -> None:
    student, model = prepared(llama_dir)
    assert changed(student, model) == set()


def test_tensors_are_read_only_when_asked_for(llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared model keeps vectors: what it holds of a layer is small beside the layer's matrices."""
    student, model = prepared(llama_dir, *METHODS)
    read: list[str] = []
    original: Callable[[Student, str], NDArray[np.float32]] = Student.read

    def counted(self: Student, name: str) -> NDArray[np.float32]:
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(Student, "read", counted)
    for name in student.names:
        if is_matrix(name):
            read.clear()
            model.read(name)
            assert read == [name]
