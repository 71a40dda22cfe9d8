"""GGUF files of tiny models, written with the gguf package's own writer and name map, and a cache of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepress.artifact.cache import cache_dir
from edgepress.compress.student.built_in import BUILT_INS

WriteGguf = Callable[..., Path]

GGUF_ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}


@pytest.fixture(scope="session")
def users_cache() -> Path:
    """The cache outside the tests."""
    return cache_dir()


@pytest.fixture(autouse=True)
def own_cache(users_cache: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's cache and the network out of it."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDGEPRESS_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def built_in_file(users_cache: Path) -> Path:
    """The built-in student's file, where an earlier command has left it."""
    model = BUILT_INS["smollm2-135m-instruct"]
    found = list(users_cache.glob(f"students/*/{Path(model.member).name}"))
    if not found:
        pytest.skip("the built-in student is not in the cache; `edgepress show smollm2-135m-instruct` fetches it")
    return found[0]


@pytest.fixture
def write_gguf() -> WriteGguf:
    """A function that writes a Hugging Face directory's model as GGUF."""
    return _write_gguf


def _write_gguf(
    directory: Path,
    path: Path,
    *,
    matrix_type: str = "F32",
    pre: str = "gpt-2",
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, NDArray[Any] | None] | None = None,
) -> Path:
    """``metadata`` and ``tensors`` (GGUF names) override what would be written; None leaves it out."""
    import gguf

    architecture, fields, original = _read(directory)
    writer = gguf.GGUFWriter(path, architecture)
    values = fields | {"tokenizer.ggml.pre": pre} | (metadata or {})
    for key, value in values.items():
        _add(writer, key, value)
    kind = gguf.GGMLQuantizationType[matrix_type]
    for name, array in (original | (tensors or {})).items():
        if array is None:
            continue
        if array.ndim == 2 and kind != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@lru_cache(maxsize=16)
def _read(directory: Path) -> tuple[str, dict[str, Any], dict[str, NDArray[Any]]]:
    """Architecture, metadata and arrays of a Hugging Face directory, under their GGUF names."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    architecture = GGUF_ARCHITECTURES[config.model_type]
    fields = _metadata(config, architecture) | _tokenizer(directory, config)
    return architecture, fields, _arrays(model, config, architecture)


def _add(writer: Any, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _metadata(config: Any, architecture: str) -> dict[str, Any]:
    ropes = config.rope_parameters
    rope = ropes.get("full_attention", ropes)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fields: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if rope["rope_type"] == "linear":
        fields |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if architecture == "gemma3":
        fields["attention.sliding_window"] = config.sliding_window
        fields["rope.freq_base_swa"] = float(ropes["sliding_attention"]["rope_theta"])
    return {f"{architecture}.{key}": value for key, value in fields.items()}


def _tokenizer(directory: Path, config: Any) -> dict[str, Any]:
    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {entry["content"] for entry in tokenizer["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": config.bos_token_id,
        "tokenizer.ggml.eos_token_id": config.eos_token_id,
        "tokenizer.ggml.padding_token_id": config.pad_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }


def _arrays(model: Any, config: Any, architecture: str) -> dict[str, NDArray[Any]]:
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    arrays: dict[str, NDArray[Any]] = {}
    for hf_name, tensor in model.state_dict().items():
        if hf_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if architecture == "llama" and ".q_proj." in hf_name:
            values = _pairs(values, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in hf_name:
            values = _pairs(values, config.num_key_value_heads)
        if architecture == "gemma3" and hf_name.endswith("norm.weight"):
            values = values + np.float32(1)
        arrays[names.get_name(hf_name, try_suffixes=(".weight", ".bias"))] = values
    if config.rope_parameters.get("rope_type") == "llama3":
        arrays["rope_freqs.weight"] = _llama3_divisors(model)
    return arrays


def _pairs(values: NDArray[Any], heads: int) -> NDArray[Any]:
    """Row r of the first half of a head and row r of the second half become rows 2r and 2r + 1."""
    out = np.empty_like(values)
    size = values.shape[0] // heads
    for head in range(heads):
        block = values[head * size : (head + 1) * size]
        out[head * size : (head + 1) * size : 2] = block[: size // 2]
        out[head * size + 1 : (head + 1) * size : 2] = block[size // 2 :]
    return out


def _llama3_divisors(model: Any) -> NDArray[np.float32]:
    """What transformers itself divides each frequency by."""
    scaled = model.model.rotary_emb.inv_freq.numpy()
    theta = model.config.rope_parameters["rope_theta"]
    plain = theta ** (-np.arange(scaled.size) / scaled.size)
    divisors: NDArray[np.float32] = (plain / scaled).astype(np.float32)
    return divisors
