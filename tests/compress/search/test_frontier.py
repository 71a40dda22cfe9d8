"""The frontier against all assignments of a small model."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from edgepress.compress.search.frontier import predicted_frontier
from edgepress.compress.search.limits import time_limit


@pytest.mark.parametrize("bounded", [False, True])
def test_every_point_is_the_best_of_all_files_of_its_size(bounded: bool) -> None:
    rng = np.random.default_rng(0)
    formats, names = ("a", "b", "c"), [f"t{place}" for place in range(5)]
    rows = {name: int(rng.integers(1, 9)) for name in names}
    sizes = {name: {"a": 40 * rows[name], "b": 60 * rows[name], "c": 90 * rows[name]} for name in names}
    losses = {name: dict(zip(formats, sorted(rng.random(3), reverse=True), strict=True)) for name in names}
    times = {name: {"a": 5.0 * rows[name], "b": 2.0 * rows[name], "c": 4.0 * rows[name]} for name in names}
    target_ms = 3.5 * sum(rows.values()) if bounded else np.inf
    points = predicted_frontier(losses, sizes, 1000, time_limit(times, target_ms) if bounded else None, 9)
    every = [
        (
            sum(sizes[name][format] for name, format in zip(names, chosen, strict=True)),
            sum(losses[name][format] for name, format in zip(names, chosen, strict=True)),
        )
        for chosen in product(formats, repeat=len(names))
        if sum(times[name][format] for name, format in zip(names, chosen, strict=True)) <= target_ms
    ]
    for point in points:
        assert point.predicted_kld == pytest.approx(
            min(loss for size, loss in every if size + 1000 <= point.file_bytes)
        )
    assert points[0].file_bytes == min(every)[0] + 1000
    assert points[-1].predicted_kld == pytest.approx(min(loss for _, loss in every))
    assert [point.predicted_kld for point in points] == sorted((point.predicted_kld for point in points), reverse=True)
    assert len(points) > 5


def test_one_choice_makes_one_point() -> None:
    (point,) = predicted_frontier({"t": {"a": 0.5}}, {"t": {"a": 30}}, 7)
    assert (point.file_bytes, point.predicted_kld) == (37, 0.5)
