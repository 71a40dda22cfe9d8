"""What every format must keep, in every family that can hold it: sizes as predicted, the same values in every file,
and logits in each engine that are those of torch over the same values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from shipped_weights import gguf_matrices, onnx_matrices, row_bag
from tiny_models import FAMILY_NAMES, make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING, HEAD, is_matrix
from edgepress.artifact.formats import FORMATS
from edgepress.artifact.manifest import read_manifest
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.pipeline.plan import RunPlan, make_plan
from edgepress.pipeline.run import compress
from edgepress.recipe import ExportTarget, Recipe
from edgepress.runtime.locate import ENGINES, choose_model, open_session

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")

TOKENS = [int(token) for token in np.random.default_rng(6).integers(4, 320, 80)]
UP = "model.layers.1.mlp.up_proj.weight"

# Formats that only ONNX and TensorRT have.
ONNX_ONLY = ("int8", "trt_int4_64", "trt_int4_128")
TENSORRT_ONLY = ("fp8",)  # tests/export/tensorrt
NARROW = [name for name, spec in FORMATS.items() if spec.block < 128]
# Where both files hold the same numbers in the same arithmetic.
BIT_EQUAL = ("f32", "f16", "q8_0", "q4_0", *ONNX_ONLY)
# Floats: float16 keys and values. Quantized: both engines round activations to 8 bits; a row out of place costs nats.
BOUNDS = {"f32": 1e-5, "f16": 1e-5}
QUANTIZED_BOUND = 1e-2


def quantize(**step: Any) -> Recipe:
    calibration = Calibration(samples=2, length=32)
    chosen = QuantizeStep(**step)
    targets: tuple[ExportTarget, ...] = ("onnx",) if chosen.format in ONNX_ONLY else ("gguf", "onnx")
    return Recipe(calibration=calibration, compress=(chosen,), export=targets, evaluate=None, bench=None, samples=None)


def press(model: Path, out: Path, **step: Any) -> RunPlan:
    recipe = quantize(**step)
    return compress(open_student(str(model)), recipe, out, recipe.export)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows every format divides."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "tie_word_embeddings": False}
    return make_model_dir("llama", tmp_path_factory.mktemp("wide") / "student", **sizes)


def check(out: Path, plan: RunPlan, format: str) -> None:
    """Everything a pressed model must keep."""
    assert {path: (out / path).stat().st_size for path in plan.files} == plan.files
    targets = ("onnx",) if format in ONNX_ONLY else ("gguf", "onnx")
    on_disk = {path.relative_to(out).as_posix() for part in targets for path in (out / part).iterdir()}
    assert on_disk == set(plan.files)
    checkpoint = Checkpoint(out / "checkpoint")
    matrices = [name for name in checkpoint.names if is_matrix(name)]
    assert {checkpoint.format(name) for name in matrices} == {format}
    values = row_bag([checkpoint.read(name) for name in matrices])
    if "gguf" in targets:
        assert row_bag(gguf_matrices(out / "gguf" / "model.gguf")) == values
    if format in BIT_EQUAL:
        assert row_bag(onnx_matrices(out / "onnx")) == values
    logits = {}
    engines = [engine for engine in ENGINES if engine != "llama.cpp" or "gguf" in targets]
    for engine in engines:
        with open_session(choose_model(out, engine), context=96, threads=1) as session:
            logits[engine] = session.prefill(TOKENS)
    bound = BOUNDS.get(format, QUANTIZED_BOUND)
    for engine in engines:
        assert divergence(logits["torch"], logits[engine]) < bound


def divergence(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    p, q = (
        x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64), axis=1)[:, None] for x in (reference, other)
    )
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@pytest.mark.parametrize("format", [format for format in FORMATS if format not in TENSORRT_ONLY])
def test_a_format_by_nearest(format: str, wide: Path, tmp_path: Path) -> None:
    check(tmp_path / "out", press(wide, tmp_path / "out", solver="nearest", format=format), format)


@pytest.mark.parametrize("format", ["q4_1", "iq4_nl", "q4_K", "q6_K", "q3_K", "int8", "trt_int4_64"])
def test_a_format_by_search(format: str, wide: Path, tmp_path: Path) -> None:
    check(tmp_path / "out", press(wide, tmp_path / "out", solver="scale_search", format=format), format)


@pytest.mark.parametrize("format", TENSORRT_ONLY)
def test_a_format_that_onnx_runtimes_operators_lack_is_refused_for_onnx(format: str, wide: Path) -> None:
    for activations in ("float", format):
        step = {"solver": "nearest", "format": format, "activations": activations, "embedding": "q8_0"}
        with pytest.raises(InputError, match=f"MatMulNBits cannot hold {format}; it holds q8_0, "):
            make_plan(open_student(str(wide)), quantize(**step), ("onnx",))


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize(("format", "solver"), [("f32", "nearest"), ("q8_0", "nearest"), ("q4_0", "scale_search")])
def test_a_family(family: str, format: str, solver: str, tmp_path: Path) -> None:
    model = make_model_dir(family, tmp_path / "student")
    check(tmp_path / "out", press(model, tmp_path / "out", solver=solver, format=format), format)


def test_biases_in_all_linears(tmp_path: Path) -> None:
    model = make_model_dir("llama", tmp_path / "student", attention_bias=True, mlp_bias=True)
    check(tmp_path / "out", press(model, tmp_path / "out", solver="nearest", format="q5_1"), "q5_1")


def test_every_format_at_once_in_one_model(wide: Path, tmp_path: Path) -> None:
    """Formats by pattern, first match first; a stack of q, k and v in three formats."""
    formats = {
        "*.0.self_attn.q_proj": "q6_K",
        "*.0.self_attn.k_proj": "q4_K",
        "blk.0.attn_v": "q5_K",
        "*.0.self_attn.o_proj": "q3_K",
        "*.0.mlp.up_proj": "iq4_xs",
        "*.ffn_down": "iq4_nl",
        "*.1.mlp.gate_proj": "q5_0",
        "*.attn_output": "q5_1",
        "token_embd": "q4_1",
        "lm_head": "f16",
        "*.attn_k": "f32",
    }
    plan = press(wide, tmp_path, solver="nearest", format="q4_0", formats=formats)
    assert {path: (tmp_path / path).stat().st_size for path in plan.files} == plan.files
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    chosen = {name: checkpoint.format(name) for name in checkpoint.names}
    assert chosen["model.layers.0.self_attn.q_proj.weight"] == "q6_K"
    assert chosen["model.layers.0.self_attn.k_proj.weight"] == "q4_K"
    assert chosen["model.layers.1.self_attn.k_proj.weight"] == "f32"
    assert (chosen[EMBEDDING], chosen[HEAD], chosen[UP]) == ("q4_1", "f16", "q4_0")
    assert set(chosen.values()) == {*formats.values(), "q4_0"}


@pytest.mark.parametrize("format", [name for name, spec in FORMATS.items() if spec.block == 256])
def test_a_format_that_does_not_fit_is_refused_with_those_that_do(format: str, llama_dir: Path) -> None:
    wanted = rf"rows of 64 values are not a multiple of {format}'s block of 256; formats that fit: {', '.join(NARROW)};"
    with pytest.raises(InputError, match=wanted) as raised:
        make_plan(open_student(str(llama_dir)), quantize(solver="nearest", format=format), ("gguf",))
    assert "fallback" in str(raised.value)


@pytest.mark.parametrize("format", [*ONNX_ONLY, *TENSORRT_ONLY])
def test_a_format_that_ggml_does_not_have_is_refused_for_gguf(format: str, wide: Path) -> None:
    wanted = rf"GGUF export: .*_proj\.weight is {format}, which ggml does not have; formats that fit: f32, f16, q8_0, "
    recipe = quantize(solver="nearest", format=format, embedding="q8_0")
    with pytest.raises(InputError, match=wanted):
        make_plan(open_student(str(wide)), recipe, ("gguf",))


def test_rows_that_no_block_divides_are_refused_with_the_float_formats(tmp_path: Path) -> None:
    model = make_model_dir("llama", tmp_path / "student", intermediate_size=100)
    with pytest.raises(InputError, match=r"down_proj.*rows of 100 values .* formats that fit: f32, f16, int8, fp8;"):
        make_plan(open_student(str(model)), quantize(solver="nearest", format="q4_0"), ("gguf",))


def test_a_fallback_is_taken_where_needed_and_listed(tmp_path: Path) -> None:
    model = make_model_dir("llama", tmp_path / "student", hidden_size=256, intermediate_size=160)
    plan = press(model, tmp_path / "out", solver="nearest", format="q4_K", fallback="q5_0")
    down = tuple(f"model.layers.{i}.mlp.down_proj.weight" for i in range(2))
    assert plan.fell_back == down
    manifest = read_manifest(tmp_path / "out")
    assert manifest.fell_back == down
    listed = {tensor["name"]: tensor["format"] for tensor in manifest.tensors}
    assert {listed[name] for name in down} == {"q5_0"}
    assert listed[UP] == "q4_K"
    assert {path: (tmp_path / "out" / path).stat().st_size for path in plan.files} == plan.files


def test_a_fallback_that_does_not_fit_either_is_refused(tmp_path: Path) -> None:
    model = make_model_dir("llama", tmp_path / "student", hidden_size=256, intermediate_size=100)
    with pytest.raises(InputError, match=r"down_proj.*formats that fit: f32, f16, int8"):
        make_plan(open_student(str(model)), quantize(solver="nearest", format="q4_K", fallback="q5_0"), ("gguf",))


@pytest.mark.parametrize("field", ["format", "embedding", "fallback"])
def test_an_unknown_format_is_refused_with_the_known_ones(field: str, llama_dir: Path) -> None:
    with pytest.raises(InputError, match="unknown format 'q9_9'; known formats: f32, f16, q8_0"):
        make_plan(open_student(str(llama_dir)), quantize(**{field: "q9_9"}), ("gguf",))


def test_a_pattern_that_matches_nothing_is_refused_with_examples(llama_dir: Path) -> None:
    recipe = quantize(formats={"*.ffn_dwn": "q8_0"})
    with pytest.raises(InputError, match=r"pattern '\*\.ffn_dwn' matches no matrix.*token_embd"):
        make_plan(open_student(str(llama_dir)), recipe, ("gguf",))
