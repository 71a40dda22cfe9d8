"""The table of families: names and options agree with transformers' models and the gguf package's lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_model_dir

from edgepress.artifact.families import EMBEDDING, FAMILIES, FINAL_NORM, HEAD, Family, gguf_names, is_matrix, layer_name

ALL = [(family, model_type) for family in FAMILIES.values() for model_type in family.model_types]


def _transformers_model(model_type: str, **options: Any) -> Any:
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        model_type,
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=99,
        **options,
    )
    with init_empty_weights():
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("family", "model_type"), ALL, ids=[model_type for _, model_type in ALL])
def test_the_names_are_those_of_transformers_parameters(family: Family, model_type: str) -> None:
    options = {option: True for option in family.biases.values() if option}
    model = _transformers_model(model_type, tie_word_embeddings=False, **options)
    theirs = {name for name, _ in model.named_parameters()}
    ours = {EMBEDDING, FINAL_NORM, HEAD}
    ours |= {layer_name(i, part) for i in range(2) for part in (*family.norms, *_linears())}
    biases = {layer_name(i, part, "bias") for i in range(2) for part in family.biases}
    assert theirs - biases == ours
    if model_type == "mistral":  # shares llama's row, whose biases its class does not have
        assert not theirs & biases
    else:
        assert theirs & biases == biases
    assert type(model).__name__ in family.architectures


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_norms_offset_and_the_embeddings_scale_are_in_transformers_code(family: Family) -> None:
    import torch

    model = _transformers_model(family.model_types[0])
    norm = type(model.model.norm)(8)
    with torch.no_grad():
        norm.weight.fill_(0.5)
        gain = float(norm(torch.ones(1, 8))[0, 0])
    assert gain == pytest.approx(0.5 + family.norm_offset, abs=1e-5)
    scaled = hasattr(model.model.embed_tokens, "embed_scale")
    assert scaled == family.scaled_embedding


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_gguf_names_are_those_of_the_gguf_package(family: Family) -> None:
    gguf = pytest.importorskip("gguf")
    architecture = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[family.gguf]
    theirs = gguf.get_tensor_name_map(architecture, 2)
    for hugging_face, ours in gguf_names(family, 2).items():
        assert theirs.get_name(hugging_face, try_suffixes=(".weight", ".bias")) == ours, hugging_face


def test_a_matrix_is_what_a_recipe_may_quantize(family_dir: Path) -> None:
    from safetensors import safe_open

    with safe_open(family_dir / "model.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            assert is_matrix(name) == (len(file.get_slice(name).get_shape()) == 2), name


def test_a_model_of_every_family_holds_only_tensors_that_the_table_names(family_dir: Path) -> None:
    from safetensors import safe_open

    from edgepress.artifact.hf_config import find_family

    config = json.loads((family_dir / "config.json").read_text(encoding="utf-8"))
    known = gguf_names(find_family(config), config["num_hidden_layers"])
    with safe_open(family_dir / "model.safetensors", framework="numpy") as file:
        assert set(file.keys()) <= known.keys()


def test_biases_that_the_configuration_turns_on_are_named(tmp_path: Path) -> None:
    from safetensors import safe_open

    directory = make_model_dir("llama", tmp_path / "model", attention_bias=True, mlp_bias=True)
    names = gguf_names(FAMILIES["llama"], 2)
    with safe_open(directory / "model.safetensors", framework="numpy") as file:
        biases = [name for name in file.keys() if name.endswith(".bias")]  # noqa: SIM118
    assert len(biases) == 14
    assert all(names[name].endswith(".bias") for name in biases)


def _linears() -> tuple[str, ...]:
    from edgepress.artifact.families import LINEARS

    return tuple(LINEARS.values())
