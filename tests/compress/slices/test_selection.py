"""Slices of encoders: bit for bit the model when nothing is removed, and the same function when what goes is empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401
from sliceable import ARCHITECTURES, AUTO, Kept, answers, empty, inputs_for, is_vision, make_model, sizes_of, write

from edgepress.compress.slices.sliced import slice_encoder
from edgepress.compress.slices.source import EncoderDirectory, encoder_family, open_encoder

Floats = Any  # float64, or places
pytestmark = pytest.mark.usefixtures("one_core")


def opened(model: Any, directory: Path) -> EncoderDirectory:
    write(model, directory)
    family = encoder_family(directory)
    assert family is not None
    return open_encoder(directory, family)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("select", ["importance", "uniform"])
def test_nothing_removed_is_the_same_to_the_bit(architecture: str, select: Any, tmp_path: Path) -> None:
    model = make_model(architecture)
    sliced = slice_encoder(opened(model, tmp_path / "m"), {}, inputs_for(architecture), select=select)
    wanted = model.state_dict()
    assert sliced.tensors.keys() == wanted.keys()
    for name, values in wanted.items():
        assert torch.equal(sliced.tensors[name], values), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("select", ["importance", "uniform"])
@pytest.mark.parametrize(
    ("hidden", "heads", "ffn"),
    [(64, 4, 24), (32, 2, 48), (32, 4, 48), (16, 2, 24)],
    ids=["ffn", "heads", "dims", "all"],
)
def test_removing_what_is_empty_changes_no_answer(
    architecture: str, select: Any, hidden: int, heads: int, ffn: int, tmp_path: Path
) -> None:
    model, kept = make_model(architecture), Kept(hidden, heads, ffn, even=select == "uniform")
    empty(model, kept)
    source = opened(model, tmp_path / "m")
    sizes = sizes_of(architecture, hidden, 3, heads, ffn)
    enough = inputs_for(architecture, count=200)  # that every ReLU opens for one of them
    sliced = slice_encoder(source, sizes, enough, select=select)
    assert sliced.chosen.hidden.tolist() == kept.hidden
    inputs = inputs_for(architecture, seed=1)  # others than those that it was fitted on
    found, wanted = answers(sliced.model, inputs), answers(model, inputs)
    places = {"last_hidden_state": kept.hidden, "pooler_output": kept.pooled}
    for name, values in wanted.items():
        there = values[..., places[name]] if name in places else values
        assert float(there.abs().max()) > 0.1
        torch.testing.assert_close(found[name], there, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_that_add_nothing_may_be_left_out(architecture: str, tmp_path: Path) -> None:
    """Behind a norm of its own a layer of zeros is one norm more: gains of one and an output that is normal already."""
    model = make_model(architecture)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".1." in name and any(part in name for part in ("output.dense", "out_lin", "o_proj", "lin2", "fc2")):
                weight.zero_()
            if not is_vision(architecture) and "norm" in name.lower() and (".0." in name or ".1." in name):
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
    sizes = sizes_of(architecture, 64, 2, 4, 48)
    sliced = slice_encoder(opened(model, tmp_path / "m"), sizes, select="uniform")
    assert sliced.chosen.layers == (0, 2)
    inputs = inputs_for(architecture)
    found, wanted = answers(sliced.model, inputs), answers(model, inputs)
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-4)


def test_layers_are_the_first_where_that_is_asked_for(tmp_path: Path) -> None:
    source = opened(make_model("BertModel"), tmp_path / "m")
    sliced = slice_encoder(source, {"num_hidden_layers": 2}, layers="first", select="uniform")
    assert sliced.chosen.layers == (0, 1)
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(sliced.tensors[name], source.tensors[name])


@pytest.mark.parametrize("architecture", ["BertModel", "ViTModel", "DistilBertForSequenceClassification"])
def test_importance_finds_what_is_loud(architecture: str, tmp_path: Path) -> None:
    """Dead channels are no test of an order: here the others whisper."""
    model, kept = make_model(architecture), Kept(16, 2, 12, even=False)
    loud = make_model(architecture)
    empty(loud, kept)
    with torch.no_grad():
        for whisper, weight in zip(model.parameters(), loud.parameters(), strict=True):
            weight.add_(whisper * 0.01)
    sliced = slice_encoder(
        opened(loud, tmp_path / "m"), sizes_of(architecture, 16, 3, 2, 12), inputs_for(architecture, count=200)
    )
    chosen = sliced.chosen
    assert chosen.hidden.tolist() == kept.hidden
    assert [ffn.tolist() for ffn in chosen.ffn] == kept.ffn
    assert [chosen.places("heads", layer).tolist() for layer in range(3)] == kept.heads
    assert chosen.pooled.tolist() == kept.pooled


def even(count: int, of: int) -> Floats:
    return np.array([i * of // count for i in range(count)])


def normed(x: Floats, gain: Floats, bias: Floats, eps: float) -> Floats:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * gain + bias


def gelu(x: Floats) -> Floats:
    return x * 0.5 * (1 + torch.erf(torch.from_numpy(x / np.sqrt(2))).numpy())


class Numpy:
    """A layer in float64 of slices that are taken here, one index at a time."""

    def __init__(self, model: Any, hidden: int, heads: int, ffn: int) -> None:
        self._tensors = {name: values.double().numpy() for name, values in model.state_dict().items()}
        self.c, self.f = even(hidden, 64), even(ffn, 48)
        self.dims = even(hidden // heads, 16)
        self.heads = even(heads, 4)

    def linear(self, x: Floats, name: str, rows: Floats, columns: Floats) -> Floats:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        cut = np.array([[weight[row, column] for column in columns] for row in rows])
        return x @ cut.T + bias[rows]

    def norm(self, x: Floats, name: str) -> Floats:
        return normed(x, self._tensors[f"{name}.weight"][self.c], self._tensors[f"{name}.bias"][self.c], 1e-12)

    def attention(self, x: Floats, q: str, k: str, v: str, out: str) -> Floats:
        total = 0.0
        for head in self.heads:
            rows = head * 16 + self.dims
            queries, keys, values = (self.linear(x, name, rows, self.c) for name in (q, k, v))
            scores = queries @ keys.T / np.sqrt(16)  # of the whole head, as it was trained
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            total = total + (weights @ values) @ self._tensors[f"{out}.weight"][np.ix_(self.c, rows)].T
        return total + self._tensors[f"{out}.bias"][self.c]


def test_a_layer_of_bert_is_that_of_slices_taken_by_hand(tmp_path: Path) -> None:
    source = opened(make_model("BertModel"), tmp_path / "m")
    by_hand = Numpy(source.model, 24, 3, 20)
    sliced = slice_encoder(source, sizes_of("BertModel", 24, 3, 3, 20), select="uniform")
    with torch.inference_mode():
        states = sliced.model(**inputs_for("BertModel"), output_hidden_states=True).hidden_states
    at = "encoder.layer.0."
    x = states[0][1].double().numpy()
    queries, keys, values = (f"{at}attention.self.{part}" for part in ("query", "key", "value"))
    x = by_hand.norm(
        x + by_hand.attention(x, queries, keys, values, f"{at}attention.output.dense"),
        f"{at}attention.output.LayerNorm",
    )
    inner = gelu(by_hand.linear(x, f"{at}intermediate.dense", by_hand.f, by_hand.c))
    wanted = by_hand.norm(x + by_hand.linear(inner, f"{at}output.dense", by_hand.c, by_hand.f), f"{at}output.LayerNorm")
    np.testing.assert_allclose(states[1][1].numpy(), wanted, rtol=2e-4, atol=2e-4)


def test_a_layer_of_vit_is_that_of_slices_taken_by_hand(tmp_path: Path) -> None:
    source = opened(make_model("ViTModel"), tmp_path / "m")
    by_hand = Numpy(source.model, 24, 3, 20)
    sliced = slice_encoder(source, sizes_of("ViTModel", 24, 3, 3, 20), select="uniform")
    inputs = inputs_for("ViTModel")
    with torch.inference_mode():
        states = sliced.model(**inputs, output_hidden_states=True).hidden_states
        whole = source.model(**inputs, output_hidden_states=True).hidden_states
    x = whole[0][1].double().numpy()[:, by_hand.c]  # no norm comes before: embeddings are slices
    np.testing.assert_allclose(states[0][1].numpy(), x, rtol=1e-5, atol=1e-5)
    at = "layers.0."
    parts = (f"{at}attention.{part}_proj" for part in "qkvo")
    x = x + by_hand.attention(by_hand.norm(x, f"{at}layernorm_before"), *parts)
    inner = by_hand.linear(by_hand.norm(x, f"{at}layernorm_after"), f"{at}mlp.fc1", by_hand.f, by_hand.c)
    wanted = x + by_hand.linear(gelu(inner), f"{at}mlp.fc2", by_hand.c, by_hand.f)
    np.testing.assert_allclose(states[1][1].numpy(), wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stock_transformers_reads_a_slice_whole(architecture: str, tmp_path: Path) -> None:
    import transformers

    source = opened(make_model(architecture), tmp_path / "m")
    sizes = sizes_of(architecture, 24, 2, 3, 20)
    sliced = slice_encoder(source, sizes, inputs_for(architecture))
    wanted = answers(sliced.model, inputs_for(architecture))
    sliced.save(tmp_path / "small")
    kind = getattr(transformers, AUTO[architecture])
    found, info = kind.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert type(found).__name__ == architecture
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {name: getattr(found.config, name) for name in sizes} == sizes
    assert found.config.num_labels == 5
    for name, values in answers(found.eval(), inputs_for(architecture)).items():
        torch.testing.assert_close(values, wanted[name], rtol=1e-6, atol=1e-6)


def test_vit_small_becomes_vit_tiny(tmp_path: Path) -> None:
    import transformers

    shapes = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12, "intermediate_size": 1536}
    small = transformers.ViTForImageClassification(transformers.ViTConfig(**shapes, image_size=32, num_labels=10))
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    sliced = slice_encoder(opened(small, tmp_path / "small"), sizes, {"pixel_values": torch.randn(4, 3, 32, 32)})
    tiny = transformers.ViTForImageClassification(
        transformers.ViTConfig(**(shapes | sizes), image_size=32, num_labels=10)
    )
    assert {name: values.shape for name, values in sliced.tensors.items()} == {
        name: values.shape for name, values in tiny.state_dict().items()
    }
    assert sliced.shape.head_dim == 64
    assert bool(answers(sliced.model, {"pixel_values": torch.randn(2, 3, 32, 32)})["logits"].isfinite().all())


def test_a_pooler_of_a_width_of_its_own_keeps_it(tmp_path: Path) -> None:
    source = opened(make_model("ViTModel", pooler_output_size=24), tmp_path / "m")
    sliced = slice_encoder(source, sizes_of("ViTModel", 32, 3, 2, 48), inputs_for("ViTModel"))
    assert sliced.tensors["pooler.dense.weight"].shape == (24, 32)
    assert answers(sliced.model, inputs_for("ViTModel"))["pooler_output"].shape == (6, 24)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_slice_is_stored_as_its_source_is(dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_model("BertModel").to(dtype)
    source = opened(model, tmp_path / "m")
    same = slice_encoder(source, {}, select="uniform")
    assert all(torch.equal(same.tensors[name], values) for name, values in model.state_dict().items())
    sliced = slice_encoder(source, {"num_hidden_layers": 1}, inputs_for("BertModel"))
    assert {values.dtype for values in sliced.tensors.values()} == {dtype}
    sliced.save(tmp_path / "small")
    assert open_encoder(tmp_path / "small", source.family).tensors["pooler.dense.weight"].dtype == dtype
