"""The same tiny model in two engines: no divergence but the arithmetic's, and a rounded one shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.benchmarks.quality import measure_quality
from edgepress.benchmarks.records import QualityRecord
from edgepress.benchmarks.reference_cache import ReferenceLogits
from edgepress.export.gguf.writer import export_gguf
from edgepress.runtime.locate import ModelFile, open_session
from edgepress.runtime.session import Session

WINDOWS = np.random.default_rng(0).integers(4, 300, (4, 48))


@pytest.fixture(scope="module")
def student(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("student") / "checkpoint"
    write_checkpoint(llama_dir, directory, lambda _: "f32")
    return directory


def _quality(model: ModelFile, student: Path, cache: Path) -> QualityRecord:
    def open_student() -> Session:
        return open_session(ModelFile(engine="torch", path=student), threads=1)

    reference = ReferenceLogits(cache, "student", WINDOWS, open_student)
    with open_session(model, context=64, threads=1) as session:
        parameters = Checkpoint(student).plan().parameters
        return measure_quality(session, reference, WINDOWS, file_bytes=model.file_bytes, parameters=parameters)


def test_the_student_against_itself_is_zero_and_agrees_everywhere(student: Path, tmp_path: Path) -> None:
    record = _quality(ModelFile(engine="torch", path=student), student, tmp_path)
    assert abs(record.kld_mean) < 1e-6
    assert record.top1_agreement == 1.0
    assert record.ppl == pytest.approx(record.ppl_reference, rel=1e-6)


def test_an_f32_file_in_llama_cpp_is_the_student_and_a_4_bit_one_is_not(
    student: Path, llama_dir: Path, tmp_path: Path
) -> None:
    exact, rounded = tmp_path / "f32.gguf", tmp_path / "q4_0.gguf"
    export_gguf(Checkpoint(student), exact)
    coarse = write_checkpoint(llama_dir, tmp_path / "coarse", lambda name: "f32" if "norm" in name else "q4_0")
    export_gguf(coarse, rounded)
    record = _quality(ModelFile(engine="llama.cpp", path=exact), student, tmp_path)
    worse = _quality(ModelFile(engine="llama.cpp", path=rounded), student, tmp_path)
    assert abs(record.kld_mean) < 1e-5
    assert worse.kld_mean > 100 * abs(record.kld_mean)
    assert worse.kld_mean > 3 * worse.kld_se
    assert worse.bits_per_weight < record.bits_per_weight
    assert worse.ppl_reference == record.ppl_reference
