"""llama.cpp's own files beside ours: the same student, the same calibration text, nothing made twice."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from ggml_oracle import ggml_dequantize, ggml_quantize
from numpy.typing import NDArray
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

from edgepress.artifact.families import FAMILIES, gguf_names
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.pipeline.llama_quantize import importance_matrix, peer_models
from edgepress.pipeline.plan import make_plan
from edgepress.pipeline.run import compress
from edgepress.pipeline.solve import calibration_text
from edgepress.pipeline.stages import Output
from edgepress.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_core")
gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

NEAREST = Recipe(
    calibration=Calibration(samples=3, length=16),
    compress=(QuantizeStep(solver="nearest", format="q4_0", embedding="q8_0"),),
    export=("gguf",),
    compare=("Q4_0",),
)
SEARCH = msgspec.structs.replace(NEAREST, compress=(QuantizeStep(solver="scale_search", format="q4_0"),))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))


def make(student: Path, recipe: Recipe, out: Path) -> dict[str, Path]:
    output = Output(out)
    with output.claim("run"):
        models = peer_models(open_student(str(student)), recipe, output)
    return {label: model.path for label, model in models.items()}


def matrices(path: Path) -> dict[str, tuple[str, NDArray[np.uint8]]]:
    tensors = gguf.GGUFReader(str(path)).tensors
    return {tensor.name: (tensor.tensor_type.name, tensor.data) for tensor in tensors if len(tensor.shape) > 1}


def test_plain_rounding_gives_the_very_bytes_of_llama_cpp(family_dir: Path, tmp_path: Path) -> None:
    theirs = matrices(make(family_dir, NEAREST, tmp_path / "out")["llama.cpp-Q4_0"])
    recipe = NEAREST
    if "output.weight" in theirs:  # an untied embedding gets no more bits than the layers
        step = QuantizeStep(solver="nearest", format="q4_0", formats={"output": "q8_0"})
        recipe = msgspec.structs.replace(NEAREST, compress=(step,))
    compress(open_student(str(family_dir)), recipe, tmp_path / "ours", ("gguf",))
    ours = matrices(tmp_path / "ours" / "gguf" / "model.gguf")
    compared = 0
    for name, (kind, data) in theirs.items():
        if kind == ours[name][0]:
            assert np.array_equal(ours[name][1], data), name
            compared += 1
    assert compared >= len(theirs) - 2


def true_mean_squares(student_dir: Path, windows: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
    """By hooks on transformers' own model, in float64, by Hugging Face name."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float64)
    found: dict[str, NDArray[np.float64]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith("model.layers."):

            def hook(_module: object, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
                found[f"{name}.weight"] = inputs[0].detach().square().mean((0, 1)).numpy()

            module.register_forward_pre_hook(hook)
    with torch.no_grad():
        model(torch.from_numpy(windows.astype(np.int64)), use_cache=False)
    return found


def test_the_importance_matrix_is_the_mean_square_of_every_layer_linears_input(family_dir: Path) -> None:
    student = open_student(str(family_dir))
    windows = calibration_windows(student, SEARCH.calibration)
    names = gguf_names(FAMILIES[student.spec.family], student.spec.depth)
    expected = {names[name]: squares for name, squares in true_mean_squares(family_dir, windows).items()}
    found = importance_matrix(student, windows)
    assert found.keys() == expected.keys()
    assert len(found) == 7 * student.spec.depth
    for name, squares in expected.items():
        assert found[name] == pytest.approx(squares, rel=1e-3)


def test_the_matrix_moves_bits_to_where_the_inputs_are_loud(llama_dir: Path, tmp_path: Path) -> None:
    """The file holds what ggml makes with that matrix; the error that it weighs is smaller, the plain one is not."""
    student = open_student(str(llama_dir))
    importance = importance_matrix(student, calibration_windows(student, SEARCH.calibration))
    plain = matrices(make(llama_dir, NEAREST, tmp_path / "plain")["llama.cpp-Q4_0"])
    weighed = matrices(make(llama_dir, SEARCH, tmp_path / "weighed")["llama.cpp-Q4_0"])
    weights = matrices(_float_file(llama_dir, tmp_path))
    lost: dict[str, list[float]] = {"plain": [], "weighed": []}
    for name, squares in importance.items():
        weight = np.asarray(weights[name][1], np.float32)
        assert np.array_equal(weighed[name][1], ggml_quantize("q4_0", weight, squares))
        for kind, file in (("plain", plain), ("weighed", weighed)):
            difference = ggml_dequantize("q4_0", file[name][1]) - weight
            lost[kind].append(float((difference.astype(np.float64) ** 2 @ squares).sum()))
    assert all(better < worse for better, worse in zip(lost["weighed"], lost["plain"], strict=True))
    assert np.array_equal(plain["token_embd.weight"][1], weighed["token_embd.weight"][1])


def _float_file(student: Path, root: Path) -> Path:
    recipe = msgspec.structs.replace(NEAREST, compress=())
    compress(open_student(str(student)), recipe, root / "float", ("gguf",))
    return root / "float" / "gguf" / "model.gguf"


def test_the_same_again_makes_nothing_and_another_text_everything(llama_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = make(llama_dir, SEARCH, out)["llama.cpp-Q4_0"]
    made, bytes_made = first.stat().st_ino, first.read_bytes()
    assert make(llama_dir, SEARCH, out)["llama.cpp-Q4_0"].stat().st_ino == made
    assert sorted(path.name for path in (out / "llama.cpp").iterdir()) == ["Q4_0.gguf"]
    other = msgspec.structs.replace(SEARCH, calibration=Calibration(samples=3, length=16, seed=1))
    assert make(llama_dir, other, out)["llama.cpp-Q4_0"].read_bytes() != bytes_made


def test_text_that_only_training_sees_goes_into_the_matrix_too(llama_dir: Path, tmp_path: Path) -> None:
    step = QuantizeStep(solver="nearest", format="q4_0", qad_tokens=64, qad_samples=8)
    trained = msgspec.structs.replace(NEAREST, compress=(step,))
    student = open_student(str(llama_dir))
    importance = importance_matrix(student, calibration_text(student, trained).training)
    found = matrices(make(llama_dir, trained, tmp_path / "out")["llama.cpp-Q4_0"])
    weights = matrices(_float_file(llama_dir, tmp_path))
    for name, squares in importance.items():
        expected = ggml_quantize("q4_0", np.asarray(weights[name][1], np.float32), squares)
        assert np.array_equal(found[name][1], expected)


def test_a_name_that_is_gone_leaves_no_file_and_twice_is_once(llama_dir: Path, tmp_path: Path) -> None:
    names = ("Q4_K_M", "Q4_0", "Q4_K_M")
    both = make(llama_dir, msgspec.structs.replace(NEAREST, compare=names), tmp_path / "out")
    assert list(both) == ["llama.cpp-Q4_K_M", "llama.cpp-Q4_0"]
    make(llama_dir, NEAREST, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "llama.cpp").iterdir()) == ["Q4_0.gguf"]
    assert make(llama_dir, msgspec.structs.replace(NEAREST, compare=()), tmp_path / "out") == {}


def test_the_plan_has_room_for_them(llama_dir: Path, tmp_path: Path) -> None:
    student = open_student(str(llama_dir))
    three = msgspec.structs.replace(NEAREST, compare=("Q4_0", "Q8_0", "Q6_K"))
    plan = make_plan(student, three, ("gguf",))
    float_bytes = _float_file(llama_dir, tmp_path).stat().st_size
    made = sum(path.stat().st_size for path in make(llama_dir, three, tmp_path / "out").values())
    assert made + float_bytes <= plan.compare_bytes
    assert plan.compare_bytes >= 2 * float_bytes
    assert plan.disk_bytes == plan.checkpoint_bytes + sum(plan.files.values()) + plan.compare_bytes
    assert make_plan(student, three, ()).compare_bytes == 0


def test_what_cannot_be_compared_is_refused_before_any_work(llama_dir: Path, tmp_path: Path) -> None:
    unmeasured = msgspec.structs.replace(NEAREST, evaluate=None)
    with pytest.raises(InputError, match="compare: the files are made to be measured, and evaluate is null"):
        make_plan(open_student(str(llama_dir)), unmeasured, ("gguf",))
    directory = make_model_dir("qwen3", tmp_path / "student", attention_bias=True)
    with pytest.raises(InputError, match=r"compare: llama\.cpp's files need the student as GGUF: .*o_proj\.bias"):
        make_plan(open_student(str(directory)), msgspec.structs.replace(NEAREST, export=("onnx",)), ("onnx",))
