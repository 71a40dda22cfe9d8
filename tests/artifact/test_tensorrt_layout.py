"""tensorrt.json: which profiles engines have, and what they take at most."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from edgepress.artifact.spec import LayerSpec, ModelSpec, RopeSpec
from edgepress.artifact.tensorrt_layout import (
    Profile,
    TensorrtOptions,
    decoder_layout,
    read_layout,
    write_layout,
)
from edgepress.errors import InputError

SPEC = ModelSpec(
    family="llama",
    vocab=1000,
    hidden=64,
    head_dim=16,
    context=1024,
    layers=(LayerSpec(heads=4, kv_heads=2, ffn=128), LayerSpec(heads=4, kv_heads=1, ffn=96)),
    norm_eps=1e-5,
    activation="silu",
    tied=True,
    attention_scale=0.25,
    embedding_scale=1.0,
    rope=RopeSpec(theta=1e4),
)


def takes(profile: Profile, batch: int, sequence: int, past: int) -> bool:
    given = zip((batch, sequence, past), (profile.batch, profile.sequence, profile.past), strict=True)
    return all(least <= size <= most for size, (least, _usual, most) in given)


def test_one_profile_takes_all_that_two_take() -> None:
    layout = decoder_layout(SPEC, ("float16",), TensorrtOptions(batch=3, call_tokens=5, context=8))
    one, two = (layout.settled("tensorrt", profiles).ranges for profiles in ("one", "two"))
    assert (list(one), list(two)) == (["both"], ["prefill", "decode"])
    for sizes in product(range(5), range(7), range(9)):
        assert takes(one["both"], *sizes) == any(takes(profile, *sizes) for profile in two.values()), sizes
    assert takes(one["both"], 3, 5, 7)


def test_the_choice_is_what_is_asked_for_then_the_exports_then_what_suits_the_library() -> None:
    plain, chosen = (decoder_layout(SPEC, (), TensorrtOptions(profiles=profiles)) for profiles in (None, "two"))
    assert [plain.settled(library).profiles for library in ("tensorrt", "tensorrt_rtx")] == ["two", "one"]
    assert chosen.settled("tensorrt_rtx").profiles == "two"
    assert chosen.settled("tensorrt_rtx", "one").profiles == "one"


def test_usual_shapes_lie_between_the_least_and_the_greatest() -> None:
    for tokens, context, library in product((1, 2, 200, None), (200, 1024), ("tensorrt", "tensorrt_rtx")):
        layout = decoder_layout(SPEC, (), TensorrtOptions(call_tokens=tokens, context=context)).settled(library)
        for name in layout.ranges:
            for shapes in layout.shapes(name).values():
                assert all(least <= usual <= most for least, usual, most in zip(*shapes, strict=True))


def test_calls_are_512_tokens_or_what_keeps_their_logits_within_128_mib() -> None:
    assert decoder_layout(SPEC, ()).call_tokens == 512
    many = decoder_layout(SPEC, (), TensorrtOptions(batch=256))
    assert many.call_tokens * many.batch * SPEC.vocab * 4 <= 1 << 27
    assert (many.call_tokens + 1) * many.batch * SPEC.vocab * 4 > 1 << 27


def test_limits_beyond_the_model_are_refused() -> None:
    with pytest.raises(InputError, match="context 1025, the model's is 1024 tokens"):
        decoder_layout(SPEC, (), TensorrtOptions(context=1025))
    with pytest.raises(InputError, match="calls of 65 tokens in a context of 64"):
        decoder_layout(SPEC, (), TensorrtOptions(call_tokens=65, context=64))


def test_a_description_is_read_back_and_another_version_says_what_to_do(tmp_path: Path) -> None:
    layout = decoder_layout(SPEC, ("int4", "float16"), TensorrtOptions(profiles="one", batch=2))
    file = tmp_path / "tensorrt.json"
    file.write_bytes(write_layout(layout))
    assert read_layout(tmp_path) == layout
    file.write_bytes(b'{"format_version": 1, "profiles": {}}')
    with pytest.raises(InputError, match="format version 1, this edgepress reads 2; export again"):
        read_layout(tmp_path)
