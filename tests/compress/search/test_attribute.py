"""What each tensor costs, against whole models of transformers in float64 whose tensors are exchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tiny_models import make_model_dir
from transformers import AutoModelForCausalLM

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING, FINAL_NORM, HEAD, LINEARS, layer_name
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.folding import FoldedModel
from edgepress.compress.quantize.layers import quantize_model
from edgepress.compress.search.attribute import attribute, measure_attribution
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.search.records import Attribution
from edgepress.compress.student.open import open_student

WINDOWS = np.random.default_rng(0).integers(4, 300, (3, 40)).astype(np.int32)
DEPTH = 2
FORMATS = {"*.ffn_gate": "f32", "model.layers.1.self_attn.q_proj": "f32", "*.attn_v": "f16"}


class Scene:
    """A model, its checkpoint in four bits and a few floats, and what attribution found."""

    def __init__(self, family: str, place: Path) -> None:
        self.student = make_model_dir(family, place / "student")
        source = open_student(str(self.student))
        step = QuantizeStep(solver="nearest", format="q4_0", embedding="q8_0", formats=FORMATS)
        directory = place / "checkpoint"
        directory.mkdir()
        quantize_model(source, step, assign_formats(source, step), None, directory, name="tiny")
        self.found: Attribution = measure_attribution(source, Checkpoint(directory), WINDOWS, 0)
        self.shipped = {
            name: values for file in directory.glob("model-*.safetensors") for name, values in load_file(file).items()
        }
        self.before = self._log_probabilities({})

    def divergence(self, names: list[str]) -> float:
        """Of the whole model with some tensors as they ship, in nats per token."""
        after = self._log_probabilities({name: self.shipped[name] for name in names})
        return float((self.before.exp() * (self.before - after)).sum(-1).mean())

    def _log_probabilities(self, changes: dict[str, NDArray[np.float32]]) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(self.student, dtype=torch.float32)
        for name, values in changes.items():
            model.get_parameter(name).data = torch.from_numpy(values)
        with torch.inference_mode():
            logits = model.double()(torch.from_numpy(WINDOWS.astype(np.int64))).logits
        return torch.log_softmax(logits.flatten(0, 1), -1)


@pytest.fixture(scope="module", params=["llama", "llama3"])  # tied and untied
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(request.param, tmp_path_factory.mktemp(request.param))


def names_of(scene: Scene) -> dict[str, list[str]]:
    """The matrices of each role, by another way than the module's."""
    roles = {role: [layer_name(layer, part) for layer in range(DEPTH)] for role, part in LINEARS.items()}
    return roles | {"embedding": [EMBEDDING]} | ({"head": [HEAD]} if HEAD in scene.shipped else {})


def test_a_roles_divergence_is_that_of_the_whole_model_with_its_tensors_exchanged(scene: Scene) -> None:
    expected = {role: scene.divergence(names) for role, names in names_of(scene).items() if role != "ffn_gate"}
    assert scene.found.roles == pytest.approx(expected, rel=5e-3, abs=1e-6)
    everything = [name for names in names_of(scene).values() for name in names]
    assert scene.found.together_kld == pytest.approx(scene.divergence(everything), rel=5e-3)
    assert scene.found.tokens == WINDOWS.size


def test_the_tensors_of_a_role_sum_to_it_and_floats_cost_nothing(scene: Scene) -> None:
    parts = {tensor.name: tensor.kld for tensor in scene.found.tensors}
    assert parts.keys() == {name for names in names_of(scene).values() for name in names}
    for role, names in names_of(scene).items():
        assert sum(parts[name] for name in names) == pytest.approx(scene.found.roles.get(role, 0.0))
    assert [parts[name] for name in names_of(scene)["ffn_gate"]] == [0.0, 0.0]
    assert parts[layer_name(1, "self_attn.q_proj")] == 0.0
    assert parts[layer_name(0, "self_attn.q_proj")] == pytest.approx(scene.found.roles["attn_q"])
    assert {tensor.name: tensor.format for tensor in scene.found.tensors}[EMBEDDING] == "q8_0"


def test_a_tensors_part_is_near_what_it_costs_alone(scene: Scene) -> None:
    parts = {tensor.name: tensor.kld for tensor in scene.found.tensors}
    names = [layer_name(layer, LINEARS[role]) for layer in range(DEPTH) for role in ("attn_k", "ffn_up", "ffn_down")]
    for name in names:
        alone = scene.divergence([name])
        assert alone / 2.5 < parts[name] < 2.5 * alone, name


def test_a_role_is_shared_out_in_proportion_to_cost_times_error() -> None:
    first, second = (layer_name(layer, LINEARS["attn_q"]) for layer in range(2))
    key = layer_name(0, LINEARS["attn_k"])
    parts = attribute(
        {"attn_q": 0.8, "embedding": 0.5},
        {first: 2.0, second: 1.0, key: 7.0},
        {first: 0.1, second: 0.6, key: 0.0, EMBEDDING: 0.3},
    )
    assert parts == pytest.approx({first: 0.2, second: 0.6, key: 0.0, EMBEDDING: 0.5})


def test_norms_that_ship_otherwise_count_in_what_all_cost_together(tmp_path: Path) -> None:
    """As after distillation, which trains them."""
    source = open_student(str(make_model_dir("llama", tmp_path / "student")))
    moved, ones = FoldedModel(source), np.ones(source.spec.hidden)
    moved.fold_into([FINAL_NORM], [], 1.5 * ones, ones)
    step = QuantizeStep(solver="nearest", format="q8_0")
    (tmp_path / "checkpoint").mkdir()
    quantize_model(moved, step, assign_formats(moved, step), None, tmp_path / "checkpoint", name="tiny")
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    found = measure_attribution(source, checkpoint, WINDOWS, 0)
    whole = Divergence(source, WINDOWS).of(lambda name, _values: checkpoint.read(name))
    assert found.together_kld == pytest.approx(whole) and whole > 10 * sum(found.roles.values())


def test_a_model_in_float32_lost_nothing(tmp_path: Path) -> None:
    source = open_student(str(make_model_dir("llama", tmp_path / "student")))
    step = QuantizeStep(solver="nearest", format="f32")
    (tmp_path / "checkpoint").mkdir()
    quantize_model(source, step, assign_formats(source, step), None, tmp_path / "checkpoint", name="tiny")
    found = measure_attribution(source, Checkpoint(tmp_path / "checkpoint"), WINDOWS, 0)
    assert found.roles == {} and found.together_kld == 0
    assert {tensor.kld for tensor in found.tensors} == {0.0}
