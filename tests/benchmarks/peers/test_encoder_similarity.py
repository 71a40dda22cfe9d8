"""How scores moved, counted pair by pair."""

from __future__ import annotations

import numpy as np

from edgepress.benchmarks.peers.encoder_similarity import difference


def test_every_pair_of_different_sentences_counts_once() -> None:
    random = np.random.default_rng(0)
    wanted, noise = random.random((6, 6)), random.standard_normal((6, 6)) * 0.2
    wanted, noise = (wanted + wanted.T) / 2, (noise + noise.T) / 2
    found = difference(wanted, wanted + noise)
    moved = [noise[i, j] for i in range(6) for j in range(i + 1, 6)]
    assert np.isclose(found["mean"], sum(abs(value) for value in moved) / 15)
    assert np.isclose(found["signed_mean"], sum(moved) / 15)
    assert np.isclose(found["greatest"], max(abs(value) for value in moved))

    def nearest(scores: np.ndarray, i: int) -> int:
        return max((j for j in range(6) if j != i), key=lambda j: scores[i, j])

    same = sum(nearest(wanted, i) == nearest(wanted + noise, i) for i in range(6))
    assert np.isclose(found["same_nearest"], same / 6)
