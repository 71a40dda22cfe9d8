"""The teacher's cache against logits of the reference decoder: what is kept, where it is kept, what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401

from edgepress.compress.distill import teacher_cache
from edgepress.compress.distill.config import TEMPERATURES
from edgepress.compress.distill.losses import kl
from edgepress.compress.distill.sparse_kl import sparse_kl
from edgepress.compress.distill.teacher_cache import TeacherCache
from edgepress.compress.distill.top_k import bytes_per_token, pack, unpack
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.runtime.text import TextCodec
from edgepress.runtime.torch_reference import TorchSession, load_model

pytestmark = pytest.mark.usefixtures("one_core")
K, LENGTH = 16, 12


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "teacher"


def windows(count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, 300, (count, LENGTH)).astype(np.int32)


def random_logits(vocab: int, tokens: int = 7) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((tokens, vocab)).astype(np.float32) * 4)


@pytest.mark.parametrize("vocab", [300, 65536, 70000, 262144])
def test_ids_of_any_vocabulary_come_back(vocab: int) -> None:
    logits = random_logits(vocab)
    logits[:, -3:] = 30 + torch.arange(3.0)  # the highest ids are among the likeliest
    packed = pack(logits, 21)
    assert unpack(packed, 1.0).ids.tolist() == logits.topk(21).indices.tolist()
    assert sum(array.nbytes for array in packed.values()) == len(logits) * bytes_per_token(21, vocab)


@pytest.mark.parametrize(("k", "vocab"), [(64, 49152), (96, 49152), (64, 262144)])
def test_a_token_takes_no_more_than_400_bytes(k: int, vocab: int) -> None:
    assert bytes_per_token(k, vocab) <= 400


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_temperature_applied_after_loading_is_that_of_the_whole_distribution(temperature: float) -> None:
    logits = random_logits(2000)
    found = unpack(pack(logits, 8), temperature)
    p = np.exp(logits.double().numpy() / temperature)
    p /= p.sum(1, keepdims=True)
    order = np.argsort(-p, axis=1)[:, :8]
    top = np.take_along_axis(p, order, 1)
    np.testing.assert_allclose(found.log_probs.exp().numpy(), top, rtol=0.01)
    np.testing.assert_allclose(found.log_tail.exp().numpy(), 1 - top.sum(1), rtol=0.02)
    np.testing.assert_allclose(found.log_probs.exp().sum(1) + found.log_tail.exp(), 1, rtol=1e-6)


def test_a_distribution_without_a_tail_has_none_after_loading() -> None:
    logits = random_logits(8)
    assert unpack(pack(logits, 8), 2.0).log_tail.tolist() == [-np.inf] * len(logits)


def test_records_are_what_the_teacher_says_after_each_token(family_dir: Path) -> None:
    source, text = open_student(str(family_dir)), windows()
    cache = TeacherCache(source, text, K)
    everything = np.ones(LENGTH - 1, bool)
    with TorchSession(source) as session:
        for number, window in enumerate(text):
            session.reset()
            logits = torch.from_numpy(session.prefill(window.tolist())[:-1])
            found = cache.read(number, everything, 1.0)
            wanted = logits.log_softmax(-1).gather(-1, found.ids)
            assert found.ids[:, 0].tolist() == logits.argmax(-1).tolist()
            torch.testing.assert_close(found.log_probs, wanted, rtol=2e-3, atol=2e-3)
            assert float(sparse_kl(logits, *found).abs().max()) < 1e-5  # the teacher itself loses nothing


def test_a_teacher_that_multiplies_in_bfloat16_says_nearly_the_same(family_dir: Path) -> None:
    source, text, everything = open_student(str(family_dir)), windows(), np.ones(LENGTH - 1, bool)
    narrow = TeacherCache(source, text, K, in_bfloat16=True)
    wide = TeacherCache(source, text, K)
    with TorchSession(source) as session:
        for number, window in enumerate(text):
            session.reset()
            logits = torch.from_numpy(session.prefill(window.tolist())[:-1])
            found = sparse_kl(logits, *narrow.read(number, everything, 1.0))
            assert float(found.mean()) < 2e-3
    a, b = (cache.read(0, everything, 1.0).log_probs for cache in (narrow, wide))
    assert not torch.equal(a, b)


def test_ids_beyond_the_vocabulary_are_refused_as_damage(llama_dir: Path, own_cache: Path) -> None:
    source, text, everything = open_student(str(llama_dir)), windows(), np.ones(LENGTH - 1, bool)
    TeacherCache(source, text, K)
    (path,) = own_cache.rglob("ids.npy")
    ids = np.load(path)
    ids[0, 3] = source.spec.vocab
    np.save(path, ids)
    cache = TeacherCache(source, text, K)
    with pytest.raises(InputError, match=f"damaged: token {source.spec.vocab} of a vocabulary of {source.spec.vocab}"):
        cache.read(0, everything, 1.0)
    cache.read(1, everything, 1.0)


def test_other_arithmetic_makes_another_cache(llama_dir: Path, own_cache: Path) -> None:
    for narrow in (False, True):
        TeacherCache(open_student(str(llama_dir)), windows(), K, in_bfloat16=narrow)
    assert len(list(own_cache.rglob("ids.npy"))) == 2


def test_only_counted_records_are_read(llama_dir: Path) -> None:
    cache = TeacherCache(open_student(str(llama_dir)), windows(), K)
    counted = np.arange(LENGTH - 1) % 3 == 1
    whole, part = cache.read(2, np.ones(LENGTH - 1, bool), 2.0), cache.read(2, counted, 2.0)
    assert part.ids.tolist() == whole.ids[torch.from_numpy(counted)].tolist()
    assert len(part.log_tail) == counted.sum()


def test_the_gradient_from_the_cache_is_that_of_unrounded_distributions(llama_dir: Path) -> None:
    source, text = open_student(str(llama_dir)), windows()
    cache = TeacherCache(source, text, K)
    with TorchSession(source) as session:
        teacher = torch.from_numpy(session.prefill(text[0].tolist())[:-1])
    student = (teacher + 0.5 * torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    for temperature in (1.0, 2.0):
        found = cache.read(0, np.ones(LENGTH - 1, bool), temperature)
        p = torch.softmax(teacher.double() / temperature, -1)
        top = p.gather(-1, found.ids)
        exact = sparse_kl(student, found.ids, top.log(), (1 - top.sum(-1)).log(), temperature)
        (wanted,) = torch.autograd.grad(exact.sum(), student)
        (rounded,) = torch.autograd.grad(sparse_kl(student, *found, temperature).sum(), student)
        assert float(torch.cosine_similarity(rounded.flatten(), wanted.flatten(), dim=0)) > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "least"), [(1.0, 0.99), (2.0, 0.98)])
def test_64_tokens_of_a_real_model_give_the_gradient_of_all(temperature: float, least: float) -> None:
    """The student is the same model with noise in its weights. The higher the temperature, the more is in the tail."""
    source = open_student("smollm2-135m-instruct")
    text = "The city lies on both banks of a river and was founded by fishermen. Its harbour froze every winter until "
    ids = torch.tensor([TextCodec(source.tokenizer_dir).encode(text * 2, special=False)])
    model = load_model(source)
    with torch.inference_mode():
        teacher = model(ids).logits[0]
        for weight in model.parameters():
            weight += 0.1 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        student = model(ids).logits[0]
    student = student.clone().requires_grad_()
    (dense,) = torch.autograd.grad(kl(student, teacher.clone(), temperature).sum(), student)
    sparse = sparse_kl(student, *unpack(pack(teacher.clone(), 64), temperature), temperature)
    (kept,) = torch.autograd.grad(sparse.sum(), student)
    cosine = float(torch.cosine_similarity(dense.flatten(), kept.flatten(), dim=0))
    assert cosine > least


def entries(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in cache.glob("*") if not path.name.startswith(".")}


def test_more_text_costs_only_itself(llama_dir: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "_SHARD_TOKENS", 2 * LENGTH)
    source, text = open_student(str(llama_dir)), windows(6)
    TeacherCache(source, text[:4], K)
    before = entries(own_cache)
    TeacherCache(source, text, K)
    after = entries(own_cache)
    assert len(before) == 2 and len(after) == 3
    assert before.items() <= after.items()


def test_another_teacher_text_or_k_is_another_entry(llama_dir: Path, family_dir: Path, own_cache: Path) -> None:
    sources = {open_student(str(path)).digest(): path for path in (llama_dir, family_dir)}
    for path in sources.values():
        TeacherCache(open_student(str(path)), windows(), K)
    TeacherCache(open_student(str(llama_dir)), windows(seed=1), K)
    TeacherCache(open_student(str(llama_dir)), windows(), K + 1)
    assert len(entries(own_cache)) == len(sources) + 2


_KILLED = """
import os, signal, sys
import numpy as np
from edgepress.compress.distill import teacher_cache
from edgepress.compress.student.open import open_student
teacher_cache._SHARD_TOKENS = 24
written = [0]
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("log_probs.npy") and arguments[2] & os.O_WRONLY:
        written[0] += 1
        if written[0] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
windows = np.random.default_rng(0).integers(4, 300, (6, 12)).astype(np.int32)
teacher_cache.TeacherCache(open_student(sys.argv[1]), windows, 16)
"""


def test_a_killed_run_goes_on_after_its_last_whole_shard(
    llama_dir: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(llama_dir)], check=False, env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    before = entries(own_cache)
    assert len(before) == 2
    monkeypatch.setattr(teacher_cache, "_SHARD_TOKENS", 2 * LENGTH)
    resumed = TeacherCache(open_student(str(llama_dir)), windows(6), K)
    assert before.items() <= entries(own_cache).items()
    monkeypatch.setenv("EDGEPRESS_CACHE", str(own_cache / "other"))
    undisturbed = TeacherCache(open_student(str(llama_dir)), windows(6), K)
    for number in range(6):
        for one, other in zip(
            resumed.read(number, np.ones(11, bool), 1.0), undisturbed.read(number, np.ones(11, bool), 1.0), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("change", ["cut", "empty", "other shape", "gone"])
def test_a_damaged_shard_is_refused_and_named(llama_dir: Path, own_cache: Path, change: str) -> None:
    source = open_student(str(llama_dir))
    TeacherCache(source, windows(), K)
    (file,) = own_cache.glob("*/ids.npy")
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif change == "empty":
        file.write_bytes(b"")
    elif change == "gone":
        file.unlink()
    else:
        np.save(file, np.zeros((3, K), np.uint16))
    with pytest.raises(InputError, match=r"ids\.npy.*remove .*run the command again"):
        TeacherCache(source, windows(), K)
