"""Formats are decided by the recipe alone; what does not fit is refused or falls back by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_model_dir

from edgepress.compress.quantize.assign import assign_formats, free_choices
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError


def formats(directory: Path, **options: object) -> dict[str, str]:
    """Name → format for a step."""
    assignment = assign_formats(open_student(str(directory)), QuantizeStep(**options))  # type: ignore[arg-type]
    return {tensor.name: tensor.format for tensor in assignment.tensors}


def test_matrices_follow_the_step_and_norms_stay_float(llama_dir: Path) -> None:
    found = formats(llama_dir, format="q4_0", embedding="q8_0")
    assert found["model.embed_tokens.weight"] == "q8_0"
    assert found["model.layers.1.mlp.down_proj.weight"] == "q4_0"
    assert found["model.norm.weight"] == found["model.layers.0.input_layernorm.weight"] == "f32"


@pytest.mark.parametrize(
    "pattern", ["*.ffn_down", "*.mlp.down_proj", "model.layers.?.mlp.down_proj.weight", "blk.*.ffn_down"]
)
def test_patterns_see_both_naming_schemes(llama_dir: Path, pattern: str) -> None:
    found = formats(llama_dir, format="q4_0", formats={pattern: "q5_0"})
    assert {name for name, format in found.items() if format == "q5_0"} == {
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    }


def test_the_first_matching_pattern_wins(llama_dir: Path) -> None:
    found = formats(llama_dir, formats={"blk.1.ffn_down": "q8_0", "*.ffn_down": "q5_0"})
    assert found["model.layers.1.mlp.down_proj.weight"] == "q8_0"
    assert found["model.layers.0.mlp.down_proj.weight"] == "q5_0"


def test_a_format_that_does_not_fit_lists_those_that_do(llama_dir: Path) -> None:
    with pytest.raises(InputError, match=r"rows of 64 values.*q4_K's block of 256; formats that fit: .*q4_0.*iq4_nl"):
        formats(llama_dir, format="q4_K")


def test_a_fallback_is_taken_and_named(llama_dir: Path) -> None:
    step = QuantizeStep(format="q4_K", fallback="q5_0")
    assignment = assign_formats(open_student(str(llama_dir)), step)
    assert "model.layers.0.self_attn.q_proj.weight" in assignment.fell_back
    assert {tensor.format for tensor in assignment.tensors} == {"q5_0", "f32"}


def test_a_pattern_without_a_match_is_refused(llama_dir: Path) -> None:
    with pytest.raises(InputError, match=r"'\*\.ffn_dwon' matches no matrix"):
        formats(llama_dir, formats={"*.ffn_dwon": "q8_0"})


def test_an_unknown_format_is_refused_with_the_known_ones(llama_dir: Path) -> None:
    with pytest.raises(InputError, match=r"unknown format 'q3_0'; known formats: f32, f16, q8_0"):
        formats(llama_dir, format="q3_0")


USUAL = ("q4_0", "q8_0")


@pytest.fixture(scope="module")
def odd_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose down projections have 100 columns, which no block divides."""
    return make_model_dir("llama", tmp_path_factory.mktemp("odd"), intermediate_size=100)


DOWN = ("model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight")


def test_a_budget_leaves_what_no_choice_fits_to_half_precision_and_says_so(odd_dir: Path) -> None:
    source = open_student(str(odd_dir))
    step = QuantizeStep(target_mb=1.0, format="f32")
    free = free_choices(source, step, USUAL)
    assert not free.keys() & set(DOWN)
    assert set(free.values()) == {USUAL}
    assignment = assign_formats(source, step, dict.fromkeys(free, "q4_0"))
    assert {assignment.formats[name] for name in DOWN} == {"f16"}
    assert assignment.fell_back == DOWN


def test_a_budgets_own_fallback_goes_before_half_precision(odd_dir: Path) -> None:
    source = open_student(str(odd_dir))
    step = QuantizeStep(target_mb=1.0, choices=("q8_0", "q4_0"), fallback="int8")
    free = free_choices(source, step, USUAL)
    assignment = assign_formats(source, step, dict.fromkeys(free, "q4_0"))
    assert {assignment.formats[name] for name in DOWN} == {"int8"}
    assert assignment.fell_back == DOWN


@pytest.mark.parametrize("named", [{"formats": {"*.ffn_down": "q4_0"}}, {"embedding": "q4_K"}])
def test_a_format_that_a_budgets_step_names_is_not_substituted(odd_dir: Path, named: dict[str, Any]) -> None:
    source = open_student(str(odd_dir))
    step = QuantizeStep(target_mb=1.0, **named)
    with pytest.raises(InputError, match="not a multiple of"):
        assign_formats(source, step, dict.fromkeys(free_choices(source, step, USUAL), "q4_0"))
    spared = assign_formats(source, QuantizeStep(target_mb=1.0, fallback="f16", **named))
    assert "f16" in spared.formats.values()


def test_choices_of_ones_own_that_do_not_fit_are_refused_without_a_fallback(odd_dir: Path) -> None:
    with pytest.raises(InputError, match=r"100 values fit none of the choices \(q4_0\); add one of f32.*'fallback'"):
        free_choices(open_student(str(odd_dir)), QuantizeStep(target_mb=1.0, choices=("q4_0",)), USUAL)
