"""Static scales end where they should: at the largest input, or where the output's error is least."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.plan import ActivationFormat
from edgepress.compress.calibrate.inputs import BINS
from edgepress.compress.quantize.activations import best_end, prepare_activations, static_scale
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.folding import DerivedModel
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_model

WINDOWS = np.random.default_rng(3).integers(4, 300, (3, 40)).astype(np.int32)
STEP = QuantizeStep(solver="nearest", format="int8", embedding="q8_0", activations="int8")


FORMATS: tuple[ActivationFormat, ...] = ("int8", "fp8")
TOPS = {"int8": 127, "fp8": 448}


def rounding_error(
    values: NDArray[np.float64], weights: NDArray[np.float64], end: float, format: ActivationFormat
) -> float:
    """Σ_j w_j E[(x_j - x̂_j)²] in float64, from its definition."""
    scale = end / TOPS[format]
    if format == "int8":
        rounded = scale * np.clip(np.rint(values / scale), -128, 127)
    else:
        scaled = torch.from_numpy(values / scale).clamp(-448, 448)
        rounded = scale * scaled.to(torch.float8_e4m3fn).double().numpy()
    return float((weights * (values - rounded) ** 2).sum())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("degrees", [2.5, 4, 30])
def test_the_best_end_is_close_to_the_best_of_all(degrees: float, format: ActivationFormat) -> None:
    rng = np.random.default_rng(int(degrees))
    values, weights = rng.standard_t(degrees, (4000, 16)), np.exp(rng.standard_normal(16))
    largest = float(np.abs(values).max())
    counted = np.broadcast_to(weights, values.shape).ravel()
    counts, _ = np.histogram(np.abs(values).ravel(), BINS, (0, largest), weights=counted)
    found = best_end(counts, largest, format)
    every = [rounding_error(values, weights, largest * part, format) for part in np.linspace(0.05, 1.0, 600)]
    assert rounding_error(values, weights, found, format) <= 1.03 * min(every)
    assert 0 < found <= largest


def test_a_scale_is_an_fp16_number_also_where_nothing_was_seen() -> None:
    for format in FORMATS:
        for end in (0.0, 1e-12, 0.37, 1000.0):
            assert float(np.float16(static_scale(end, format))) == static_scale(end, format) > 0
        assert static_scale(float(TOPS[format]), format) == 1.0


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("smooth", [0.0, 0.5])
def test_minmax_scales_are_the_largest_inputs_of_the_smoothed_model(
    smooth: float, format: ActivationFormat, family_dir: Path
) -> None:
    step = msgspec.structs.replace(STEP, smooth=smooth, format=format, activations=format)
    student = open_student(str(family_dir))
    model, scales = prepare_activations(student, step, assign_formats(student, step), WINDOWS)
    reference = load_model(model)
    largest: dict[str, float] = {}
    for name, module in reference.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(
                lambda _module, inputs, name=name: largest.__setitem__(f"{name}.weight", float(inputs[0].abs().max()))
            )
    with torch.inference_mode():
        reference(torch.from_numpy(WINDOWS.astype(np.int64)))
    assert scales.keys() == largest.keys()
    for name, scale in scales.items():
        assert scale == pytest.approx(largest[name] / TOPS[format], rel=2e-3)


@pytest.mark.parametrize("format", FORMATS)
def test_inputs_beyond_a_half_precision_scale_are_refused_by_name(format: ActivationFormat, llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    step = msgspec.structs.replace(STEP, format=format, embedding="f16", activations=format, smooth=0.0, clip="minmax")

    class Louder(DerivedModel):
        """The norm in front of the first feed-forward multiplies by a hundred million."""

        def read(self, name: str) -> NDArray[np.float32]:
            values = super().read(name)
            return values * np.float32(1e8) if name.endswith("0.post_attention_layernorm.weight") else values

    with pytest.raises(InputError, match=r"layers\.0\.mlp\.\w+_proj\.weight: its inputs go up to .* float16 scale"):
        prepare_activations(Louder(student), step, assign_formats(student, step), WINDOWS)


def test_linears_that_share_an_input_share_its_scale(family_dir: Path) -> None:
    student, step = open_student(str(family_dir)), msgspec.structs.replace(STEP, clip="mse")
    _, scales = prepare_activations(student, step, assign_formats(student, step), WINDOWS)
    for i in range(student.spec.depth):
        layer = f"model.layers.{i}."
        assert len({scales[f"{layer}self_attn.{part}_proj.weight"] for part in "qkv"}) == 1
        assert len({scales[f"{layer}mlp.{part}_proj.weight"] for part in ("gate", "up")}) == 1


def test_mse_never_ends_beyond_minmax(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    ends = {}
    for clip in ("minmax", "mse"):
        step = msgspec.structs.replace(STEP, clip=clip)
        _, ends[clip] = prepare_activations(student, step, assign_formats(student, step), WINDOWS)
    assert all(ends["mse"][name] <= scale for name, scale in ends["minmax"].items())
    assert ends["mse"] != ends["minmax"]


def test_linears_in_other_formats_keep_their_float_inputs(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    step = msgspec.structs.replace(STEP, formats={"*.ffn_down": "q8_0"})
    assignment = assign_formats(student, step)
    _, scales = prepare_activations(student, step, assignment, WINDOWS)
    assert scales.keys() == {tensor.name for tensor in assignment.tensors if tensor.format == "int8"}
    assert not any("down_proj" in name for name in scales)


def test_int8_activations_without_int8_weights_are_refused(llama_dir: Path) -> None:
    student, step = open_student(str(llama_dir)), msgspec.structs.replace(STEP, format="q8_0")
    with pytest.raises(InputError, match="activations: int8 is for linears in format int8, and no layer has one"):
        assign_formats(student, step)
