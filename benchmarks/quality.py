"""Quality: a model in its own engine against the reference, over windows of a text.

Errors are clustered by window (see :mod:`~edgepress.benchmarks.statistics`): tokens of one window are alike, so the
number of windows, not of tokens, decides how sure the mean is. With a single window the positions are taken as
independent, and the record says so in ``se_method``.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.benchmarks.kld import Scores
from edgepress.benchmarks.packed_reference import PackedPositions, score_packed
from edgepress.benchmarks.records import QualityRecord
from edgepress.benchmarks.reference_cache import ReferenceLogits
from edgepress.benchmarks.statistics import Estimate, clustered_mean, percentiles
from edgepress.benchmarks.windows import Tokens, protocol, window_logits, windows_sha256
from edgepress.errors import InputError
from edgepress.progress import progress
from edgepress.runtime.session import Session


def measure_quality(
    session: Session,
    reference: ReferenceLogits,
    windows: Tokens,
    *,
    file_bytes: int,
    parameters: int,
    text_sha256: str | None = None,
    bos: bool = False,
) -> QualityRecord:
    """Score a model's logits against the reference's.

    Args:
        session: the model in its engine.
        reference: of the same windows; filled first where it lacks some. Call its ``fill`` before opening ``session``
            to spare having both models in memory.
        windows: (n, C) token ids, a beginning-of-text token included where the model wants one.
        file_bytes, parameters: of the shipped file, tied weights counted once; for the bits per weight.
        text_sha256: identity of the text behind the windows.
        bos: each window begins with a token that is not of the text; for the record.

    Raises:
        EdgepressError: the engine returns NaN or infinite logits; names the window.
        InputError: windows too long for the session, or of another set, or another vocabulary than the reference's.
    """
    _check(session, reference, windows)
    reference.fill()
    start = time.perf_counter()
    summary = summarise(_score_windows(session, reference, windows))
    return QualityRecord(
        engine=session.engine,
        engine_version=session.engine_version,
        reference=reference.digest,
        file_bytes=file_bytes,
        parameters=parameters,
        bits_per_weight=8 * file_bytes / parameters,
        text_sha256=text_sha256,
        windows_sha256=reference.windows_sha256,
        seconds=time.perf_counter() - start,
        **_extent(windows, bos),
        **summary,
    )


def _extent(windows: Tokens, bos: bool) -> dict[str, Any]:
    """What was scored."""
    count, context = windows.shape
    sentence = protocol(context, bos=bos)
    return {"protocol": sentence, "tokens": count * (context - 1), "windows": count, "context": context}


def _score_windows(session: Session, reference: ReferenceLogits, windows: Tokens) -> list[Scores]:
    scores = []
    with progress(f"quality in {session.engine}", len(windows)) as advance:
        for index, window in enumerate(windows):
            scores.append(score_window(session, reference.load(index), window, f"window {index}"))
            advance(1)
    return scores


def score_window(session: Session, packed: PackedPositions, window: Tokens, name: str) -> Scores:
    """Scores of one window's C - 1 positions.

    Raises:
        EdgepressError: a logit is not finite.
        InputError: the reference has another vocabulary.
    """
    vocab = packed.codes.shape[1]
    if vocab != session.vocab_size:
        raise InputError(
            f"{session.engine} has a vocabulary of {session.vocab_size}, the reference one of {vocab}; "
            "compare with the student that the model was made from (OUT/trimmed where a recipe has trimmed it)"
        )
    targets = window[1:]
    pieces = window_logits(session, window, name)
    return Scores.join([score_packed(packed.rows(at), logits, targets[at]) for at, logits in pieces])


def summarise(scores: list[Scores]) -> dict[str, Any]:
    """Means, errors and percentiles of equally long windows, by the names of :class:`QualityRecord`."""
    kld = np.stack([window.kld for window in scores])  # (windows, positions), like the three below
    agrees = np.stack([window.agrees for window in scores]).astype(np.float64)
    nll = np.stack([window.nll for window in scores])
    nll_reference = np.stack([window.nll_reference for window in scores])
    divergence, agreement = clustered_mean(kld), clustered_mean(agrees)
    ppl, ppl_reference, ratio = _exp(nll), _exp(nll_reference), _exp(nll - nll_reference)
    p50, p99, greatest = percentiles(kld.ravel(), (50, 99, 100))
    return {
        "kld_mean": divergence.mean,
        "kld_se": divergence.se,
        "kld_p50": p50,
        "kld_p99": p99,
        "kld_max": greatest,
        "top1_agreement": agreement.mean,
        "top1_se": agreement.se,
        "ppl": ppl.mean,
        "ppl_se": ppl.se,
        "ppl_reference": ppl_reference.mean,
        "ppl_reference_se": ppl_reference.se,
        "ppl_ratio": ratio.mean,
        "ppl_ratio_se": ratio.se,
        "se_method": "clustered by window" if len(scores) > 1 else "positions taken as independent (one window)",
        "window_kld": _means(kld),
        "window_top1_agreement": _means(agrees),
        "window_nll": _means(nll),
        "window_nll_reference": _means(nll_reference),
    }


def _exp(log_values: NDArray[np.float64]) -> Estimate:
    """exp of a clustered mean; the error by the delta method."""
    mean, se = clustered_mean(log_values)
    value = float(np.exp(mean))
    return Estimate(value, value * se)


def _means(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(mean) for mean in values.mean(axis=1))


def _check(session: Session, reference: ReferenceLogits, windows: Tokens) -> None:
    """Refuse before any model runs."""
    context = windows.shape[1]
    if context - 1 > session.context_limit:
        raise InputError(
            f"windows of {context} tokens do not fit the context of {session.context_limit} in {session.engine}; "
            "cut smaller windows or open the session with a larger context"
        )
    if windows_sha256(windows) != reference.windows_sha256:
        raise InputError("the reference belongs to other windows; build it from the same tokens")
