"""Hugging Face directories against what transformers loads from them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import make_model_dir

from edgepress.artifact.families import EMBEDDING, HEAD
from edgepress.compress.student.hf_directory import HfDirectory
from edgepress.errors import InputError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NORM = "model.layers.1.input_layernorm.weight"


def _load_by_transformers(directory: Path) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def _rewrite(directory: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Load the weights as torch tensors, change them, save them."""
    from safetensors.torch import load_file, save_file

    # Cloned, since the loaded tensors are a mapping of the file that is about to be overwritten.
    tensors = {name: tensor.clone() for name, tensor in load_file(directory / WEIGHTS).items()}
    save_file(change(tensors), directory / WEIGHTS, metadata={"format": "pt"})
    return directory


def _edit_config(directory: Path, **fields: Any) -> Path:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return directory


@pytest.fixture
def student_dir(llama_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama to damage."""
    return Path(shutil.copytree(llama_dir, tmp_path / "student"))


def test_every_family_reads_what_transformers_loads(family_dir: Path) -> None:
    student = HfDirectory(family_dir)
    wanted = _load_by_transformers(family_dir)
    assert set(wanted) - set(student.names) <= {HEAD}
    for name in student.names:
        values = student.read(name)
        assert values.dtype == np.float32
        assert values.shape == student.shape(name)
        np.testing.assert_array_equal(values, wanted[name])
    assert student.parameters == sum(wanted[name].size for name in student.names)
    assert student.notes == ()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_widens_exactly(kind: str, student_dir: Path) -> None:
    import torch

    _rewrite(student_dir, lambda tensors: {name: t.to(getattr(torch, kind)) for name, t in tensors.items()})
    student = HfDirectory(student_dir)
    assert set(student.stored_types.values()) == {{"float16": "F16", "bfloat16": "BF16"}[kind]}
    for name, wanted in _load_by_transformers(student_dir).items():
        if name != HEAD:
            np.testing.assert_array_equal(student.read(name), wanted)


def test_shards_read_like_one_file(tmp_path: Path) -> None:
    whole = HfDirectory(make_model_dir("qwen2", tmp_path / "whole"))
    sharded = HfDirectory(make_model_dir("qwen2", tmp_path / "sharded", shard_bytes=100_000))
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert sharded.names == whole.names
    for name in whole.names:
        np.testing.assert_array_equal(sharded.read(name), whole.read(name))


def test_what_is_read_belongs_to_the_caller_and_nothing_stays_mapped(student_dir: Path) -> None:
    student = HfDirectory(student_dir)
    before = student.read(NORM).copy()
    student.read(NORM)[:] = 0
    np.testing.assert_array_equal(student.read(NORM), before)
    assert str(student_dir) not in Path("/proc/self/maps").read_text()


def test_a_head_equal_to_a_tied_embedding_is_dropped(student_dir: Path) -> None:
    _rewrite(student_dir, lambda tensors: tensors | {HEAD: tensors[EMBEDDING].clone()})
    student = HfDirectory(student_dir)
    assert student.spec.tied
    assert HEAD not in student.names
    assert student.notes == ()


def test_a_different_head_is_kept_whatever_the_configuration_says(student_dir: Path) -> None:
    _rewrite(student_dir, lambda tensors: tensors | {HEAD: tensors[EMBEDDING] * 2})
    student = HfDirectory(student_dir)
    assert not student.spec.tied
    assert student.config["tie_word_embeddings"] is False
    assert student.names[-1] == HEAD
    assert "lm_head.weight differs" in student.notes[0]


def test_without_a_head_the_embedding_serves_and_a_contradiction_is_noted(student_dir: Path) -> None:
    student = HfDirectory(_edit_config(student_dir, tie_word_embeddings=False))
    assert student.spec.tied
    assert "the embedding serves as head" in student.notes[0]


def test_constant_buffers_of_older_exports_are_ignored(student_dir: Path) -> None:
    import torch

    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    _rewrite(student_dir, lambda tensors: tensors | extra)
    assert len(HfDirectory(student_dir).names) == 20


def test_the_digest_follows_weights_configuration_and_tokenizer(student_dir: Path) -> None:
    digests = [HfDirectory(student_dir).digest(), HfDirectory(student_dir).digest()]
    assert digests[0] == digests[1]
    _rewrite(student_dir, lambda tensors: tensors | {NORM: tensors[NORM] * 1.0001})
    digests.append(HfDirectory(student_dir).digest())
    _edit_config(student_dir, rms_norm_eps=1e-4)
    digests.append(HfDirectory(student_dir).digest())
    (student_dir / "tokenizer_config.json").write_text("{}")
    digests.append(HfDirectory(student_dir).digest())
    assert len(set(digests)) == 4


def test_older_tokenizer_files_are_converted_into_the_cache(student_dir: Path, own_cache: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student_dir)
    model = json.loads((student_dir / "tokenizer.json").read_text())["model"]
    (student_dir / "vocab.json").write_text(json.dumps(model["vocab"]))
    (student_dir / "merges.txt").write_text("\n".join(" ".join(merge) for merge in model["merges"]))
    (student_dir / "tokenizer.json").unlink()
    settings = json.loads((student_dir / "tokenizer_config.json").read_text())
    (student_dir / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "GPT2Tokenizer"}))
    converted = HfDirectory(student_dir).tokenizer_dir
    assert converted.is_relative_to(own_cache)
    text = "The quick brown fox, 12345!"
    assert AutoTokenizer.from_pretrained(converted)(text)["input_ids"] == tokenizer(text)["input_ids"]


def _drop(name: str) -> Callable[[Path], Any]:
    return lambda d: _rewrite(d, lambda tensors: {key: t for key, t in tensors.items() if key != name})


def _put(name: str, make: Callable[[Any], Any]) -> Callable[[Path], Any]:
    def damage(directory: Path) -> None:
        import torch

        _rewrite(directory, lambda tensors: tensors | {name: make(torch)})

    return damage


def _cut(name: str, left: int) -> Callable[[Path], Any]:
    return lambda d: (d / name).write_bytes((d / name).read_bytes()[:left])


def _rename_weights(name: str) -> Callable[[Path], Any]:
    return lambda d: (d / WEIGHTS).rename(d / name)


def _with_index(weight_map: Any) -> Callable[[Path], Any]:
    def damage(directory: Path) -> None:
        (directory / WEIGHTS).rename(directory / "a.safetensors")
        shutil.copy(directory / "a.safetensors", directory / "b.safetensors")
        (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return damage


GPTQ = {"quant_method": "gptq", "bits": 4}
MIXTRAL = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "there is no config.json here"),
        (_cut("config.json", 40), r"config\.json: not valid JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "wanted a JSON object, got list"),
        (lambda d: (d / "config.json").write_text('{"a": 1, "a": 2}'), "duplicate key 'a'"),
        (lambda d: (d / "config.json").write_text("[" * 100_000), r"config\.json: not valid JSON"),
        (lambda d: _edit_config(d, **MIXTRAL), r"'MixtralForCausalLM' \(model_type 'mixtral'\); supported: llama"),
        (lambda d: _edit_config(d, model_type="qwen3_moe", architectures=None), "unsupported .* 'qwen3_moe'"),
        (lambda d: _edit_config(d, model_type=["llama"]), "unsupported model family"),
        (lambda d: _edit_config(d, architectures=5), "wrong type"),
        (lambda d: _edit_config(d, quantization_config=GPTQ), r"already quantized \(.*'gptq'\)"),
        (lambda d: _edit_config(d, hidden_size="64"), r"hidden_size must be a positive integer, got '64'"),
        (lambda d: _edit_config(d, rope_parameters="none"), "wrong type .*AttributeError"),
        (lambda d: _edit_config(d, head_dim=15), "head dimension 15; rotary embeddings need an even one"),
        (lambda d: _edit_config(d, num_hidden_layers=3), r"layers\.2\.input_layernorm\.weight \[64\] is missing"),
        (lambda d: _edit_config(d, intermediate_size=96), r"shape \[128, 64\], the configuration asks for \[96, 64\]"),
        (lambda d: _edit_config(d, attention_bias=True), r"self_attn\.q_proj\.bias \[64\] is missing"),
        (_cut(WEIGHTS, 5000), "damaged or truncated safetensors file of 5000 bytes"),
        (_cut(WEIGHTS, 4), "damaged or truncated safetensors file of 4 bytes"),
        (_cut(WEIGHTS, 0), "damaged or truncated safetensors file of 0 bytes"),
        (_drop(NORM), r"layers\.1\.input_layernorm\.weight \[64\] is missing; it has 19 tensors"),
        (_put("model.extra\nline", lambda torch: torch.ones(3)), r"unexpected tensor 'model\.extra\\nline' \[3\]"),
        (_put(NORM, lambda torch: torch.ones(63)), r"has shape \[63\], the configuration asks for \[64\]"),
        (_put(NORM, lambda torch: torch.ones(64, dtype=torch.int8)), r"is stored as I8; supported: F32, F16, BF16"),
        (_rename_weights("pytorch_model.bin"), r"pytorch_model\.bin is a pickle .* convert to safetensors"),
        (_rename_weights("consolidated.00.pth"), r"consolidated\.00\.pth is a pickle"),
        (_rename_weights("weights.safetensors"), r"weights\.safetensors is here, but neither model\.safetensors"),
        (lambda d: (d / WEIGHTS).unlink(), r"no weights here; wanted model\.safetensors or"),
        (_with_index({NORM: "gone.safetensors"}), r"shard 'gone\.safetensors' is missing, which model\.safetensors"),
        (_with_index({NORM: "../a.safetensors"}), r"'\.\./a\.safetensors' is not a plain file name"),
        (_with_index([1]), "wanted weight_map"),
        (_with_index({"x": "a.safetensors"}), r"'x' is not in a\.safetensors"),
        (_with_index({NORM: "a.safetensors", EMBEDDING: "b.safetensors"}), "duplicate tensor .* a.safetensors and b"),
        (lambda d: (d / "tokenizer.json").unlink(), r"there is no tokenizer here; wanted tokenizer\.json"),
        (_cut("tokenizer.json", 2000), r"tokenizer\.json: damaged tokenizer"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line(
    damage: Callable[[Path], Any], message: str, student_dir: Path
) -> None:
    damage(student_dir)
    with pytest.raises(InputError, match=message) as caught:
        HfDirectory(student_dir)
    assert "\n" not in str(caught.value)
    assert str(student_dir) in str(caught.value)


def test_nan_and_infinity_are_reported_by_tensor_and_count(student_dir: Path) -> None:
    import torch

    broken = torch.ones(64)
    broken[5], broken[6] = torch.nan, torch.inf
    _rewrite(student_dir, lambda tensors: tensors | {NORM: broken})
    student = HfDirectory(student_dir)
    with pytest.raises(InputError, match=r"layers\.1\.input_layernorm\.weight has 2 values of 64 that are NaN"):
        student.read(NORM)


def test_a_file_that_shrinks_after_opening_is_noticed(student_dir: Path) -> None:
    student = HfDirectory(student_dir)
    _cut(WEIGHTS, 5000)(student_dir)
    with pytest.raises(InputError, match="but the file ends after"):
        student.read(student.names[-1])
