"""Order and number of the tensors in a file."""

from __future__ import annotations

import numpy as np

from edgepress.artifact.rope import frequencies
from edgepress.artifact.spec import LayerSpec, ModelSpec, RopeSpec
from edgepress.export.gguf.layout import FileTensor, rope_factors


def _spec(rope: RopeSpec) -> ModelSpec:
    return ModelSpec(
        family="llama",
        vocab=320,
        hidden=64,
        head_dim=32,
        context=256,
        layers=(LayerSpec(heads=2, kv_heads=1, ffn=96),),
        norm_eps=1e-5,
        activation="silu",
        tied=True,
        attention_scale=32**-0.5,
        embedding_scale=1.0,
        rope=rope,
    )


def test_rows_alternate_between_the_halves_of_each_head() -> None:
    tensor = FileTensor(name="blk.0.attn_q.weight", source="q", shape=(12, 4), format="f32", heads=2)
    order = tensor.row_order()
    assert order is not None
    assert order.tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_tensors_that_are_not_rotated_keep_their_rows() -> None:
    assert FileTensor(name="blk.0.attn_v.weight", source="v", shape=(12, 4), format="f32").row_order() is None


def test_rope_factors_turn_plain_frequencies_into_scaled_ones() -> None:
    rope = RopeSpec(
        theta=500000.0, scaling="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64
    )
    plain = 500000.0 ** (-np.arange(0, 32, 2) / 32)
    factors = rope_factors(_spec(rope))
    assert factors.dtype == np.float32
    assert np.allclose(plain / factors, frequencies(rope, 32), rtol=1e-6)
    assert factors[0] == 1.0 and factors[-1] == 8.0
