"""Rotary frequencies are those of transformers' own rotary modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgepress.artifact.hf_config import model_spec
from edgepress.artifact.rope import frequencies
from edgepress.artifact.spec import RopeSpec

_CONFIG: dict[str, Any] = {
    "vocab_size": 10,
    "hidden_size": 256,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "max_position_embeddings": 131072,
}
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 1e4},
        {"rope_type": "default", "rope_theta": 1e6},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
        _LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 8192},
        _LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 512},
        _LLAMA3 | {"factor": 2.0, "original_max_position_embeddings": 8192, "high_freq_factor": 64.0},
    ],
    ids=lambda rope: ", ".join(f"{key} {value}" for key, value in rope.items()),
)
def test_frequencies_are_those_of_a_llama_in_transformers(rope: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = _CONFIG | {"rope_parameters": rope}
    spec = model_spec(config | {"model_type": "llama"})
    theirs = LlamaRotaryEmbedding(LlamaConfig(**config)).inv_freq.double().numpy()
    ours = frequencies(spec.rope, spec.head_dim)
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_frequencies_of_both_rotations_are_those_of_a_gemma_in_transformers() -> None:
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

    ropes = {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    kinds = ["sliding_attention", "full_attention"]
    config = _CONFIG | {"rope_parameters": ropes, "layer_types": kinds, "sliding_window": 512}
    spec = model_spec(config | {"model_type": "gemma3_text"})
    module = Gemma3RotaryEmbedding(Gemma3TextConfig(**config))
    assert spec.rope_local is not None
    for rope, kind in ((spec.rope, "full_attention"), (spec.rope_local, "sliding_attention")):
        theirs = getattr(module, f"{kind}_inv_freq").double().numpy()
        np.testing.assert_allclose(frequencies(rope, spec.head_dim), theirs, rtol=1e-6)


def test_the_llama3_ramp_joins_its_ends_without_a_step() -> None:
    rope = RopeSpec(theta=5e5, scaling="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    plain = frequencies(RopeSpec(theta=5e5), 4096)
    ratio = plain / frequencies(rope, 4096)
    assert np.all(np.diff(ratio) >= 0)
    assert ratio[0] == 1.0
    assert ratio[-1] == pytest.approx(8.0)
    assert np.diff(ratio).max() < 0.2
