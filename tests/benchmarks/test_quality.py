"""Quality of models whose distributions are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from bigram_session import BigramSession, log_softmax, random_table
from numpy.typing import NDArray

from edgepress.benchmarks.quality import measure_quality
from edgepress.benchmarks.records import QualityRecord
from edgepress.benchmarks.reference_cache import ReferenceLogits
from edgepress.errors import EdgepressError, InputError

VOCAB = 400
STUDENT = random_table(VOCAB, 3.0, 0)
MODEL = (STUDENT + random_table(VOCAB, 0.4, 1)).astype(np.float32)
WINDOWS: NDArray[np.int64] = np.random.default_rng(2).integers(0, VOCAB, (6, 65))


def _measure(root: Path, table: NDArray[np.float32], windows: NDArray[np.int64] = WINDOWS) -> QualityRecord:
    reference = ReferenceLogits(root, "student", windows, lambda: BigramSession(STUDENT))
    return measure_quality(BigramSession(table), reference, windows, file_bytes=50_000, parameters=80_000)


def test_a_bigram_model_scores_what_its_table_says(tmp_path: Path) -> None:
    record = _measure(tmp_path, MODEL)
    log_p, log_q = log_softmax(STUDENT), log_softmax(MODEL)
    kld = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)[WINDOWS[:, :-1]]  # (windows, positions)
    nll, nll_reference = -log_q[WINDOWS[:, :-1], WINDOWS[:, 1:]], -log_p[WINDOWS[:, :-1], WINDOWS[:, 1:]]
    agrees = (STUDENT.argmax(axis=1) == MODEL.argmax(axis=1))[WINDOWS[:, :-1]]
    assert record.kld_mean == pytest.approx(float(kld.mean()), abs=1e-5)
    assert record.kld_p99 == pytest.approx(float(np.percentile(kld.astype(np.float64), 99)), abs=1e-4)
    assert record.kld_max == pytest.approx(float(kld.max()), abs=1e-4)
    assert record.kld_se == pytest.approx(float(kld.mean(axis=1).std(ddof=1)) / math.sqrt(6), rel=1e-3)
    assert record.top1_agreement == agrees.mean()
    assert record.ppl == pytest.approx(math.exp(float(nll.mean())), rel=1e-9)
    assert record.ppl_reference == pytest.approx(math.exp(float(nll_reference.mean())), rel=1e-9)
    assert record.ppl_ratio == pytest.approx(record.ppl / record.ppl_reference, rel=1e-12)
    paired = (nll - nll_reference).mean(axis=1).std(ddof=1) / math.sqrt(6)
    assert record.ppl_ratio_se == pytest.approx(record.ppl_ratio * float(paired), rel=1e-9)
    assert record.ppl_ratio_se < record.ppl_se / record.ppl  # pairing removes what both find hard


def test_the_record_says_what_was_counted(tmp_path: Path) -> None:
    record = _measure(tmp_path, MODEL)
    assert (record.tokens, record.windows, record.context) == (6 * 64, 6, 65)
    assert record.bits_per_weight == 5.0
    assert record.se_method == "clustered by window"
    assert "positions 0 to 63" in record.protocol
    assert np.mean(record.window_kld) == pytest.approx(record.kld_mean, rel=1e-12)
    assert math.exp(np.mean(record.window_nll)) == pytest.approx(record.ppl, rel=1e-12)
    assert np.mean(record.window_top1_agreement) == pytest.approx(record.top1_agreement, rel=1e-12)


def test_the_student_itself_has_no_divergence(tmp_path: Path) -> None:
    record = _measure(tmp_path, STUDENT)
    assert abs(record.kld_mean) < 1e-9
    assert abs(record.kld_max) < 1e-9
    assert record.top1_agreement == 1.0
    assert record.ppl_ratio == pytest.approx(1.0, abs=1e-12)
    assert record.ppl_ratio_se < 1e-12


def test_one_window_takes_its_positions_as_independent_and_says_so(tmp_path: Path) -> None:
    record = _measure(tmp_path, MODEL, WINDOWS[:1])
    assert "one window" in record.se_method
    assert 0 < record.kld_se < record.kld_mean


def test_the_reference_is_opened_once_for_many_artifacts(tmp_path: Path) -> None:
    opened = []

    def open_student() -> BigramSession:
        opened.append(BigramSession(STUDENT))
        return opened[-1]

    for table in (MODEL, STUDENT):
        reference = ReferenceLogits(tmp_path, "student", WINDOWS, open_student)
        measure_quality(BigramSession(table), reference, WINDOWS, file_bytes=1, parameters=1)
    assert len(opened) == 1


def test_nan_logits_are_an_error_that_names_the_window(tmp_path: Path) -> None:
    broken = MODEL.copy()
    broken[WINDOWS[4, 10]] = np.nan
    first = next(i for i, window in enumerate(WINDOWS) if WINDOWS[4, 10] in window[:-1])
    with pytest.raises(EdgepressError, match=f"bigram returned NaN or infinite logits in window {first} at position"):
        _measure(tmp_path, broken)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    reference = ReferenceLogits(tmp_path, "student", WINDOWS, lambda: BigramSession(STUDENT))
    with pytest.raises(InputError, match="vocabulary of 500"):
        measure_quality(BigramSession(random_table(500, 1.0, 0)), reference, WINDOWS, file_bytes=1, parameters=1)
    with pytest.raises(InputError, match="context of 63"):
        measure_quality(BigramSession(MODEL, context=63), reference, WINDOWS, file_bytes=1, parameters=1)
    with pytest.raises(InputError, match="other windows"):
        measure_quality(BigramSession(MODEL), reference, WINDOWS[:2], file_bytes=1, parameters=1)
