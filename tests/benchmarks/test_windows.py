"""Windows are cut side by side, and read so that nothing overflows unseen."""

from __future__ import annotations

import numpy as np
import pytest
from bigram_session import BigramSession, random_table

from edgepress.benchmarks import windows as windows_module
from edgepress.benchmarks.windows import cut_windows, protocol, window_logits, windows_sha256
from edgepress.errors import EdgepressError, InputError


def test_windows_stand_side_by_side_and_the_rest_is_left() -> None:
    cut = cut_windows(range(11), 4)
    np.testing.assert_array_equal(cut, [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(cut_windows(range(100), 3, limit=7), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(("tokens", "context"), [(3, 4), (0, 2), (10, 1), (10, 0)])
def test_too_little_text_or_context_is_refused_with_the_numbers(tokens: int, context: int) -> None:
    with pytest.raises(InputError, match=str(context)):
        cut_windows(range(tokens), context)


def test_the_identity_depends_on_tokens_and_shape_but_not_on_the_integer_type() -> None:
    windows = np.arange(12).reshape(3, 4)
    assert windows_sha256(windows) == windows_sha256(windows.astype(np.int32))
    assert windows_sha256(windows) != windows_sha256(windows.reshape(4, 3))
    assert windows_sha256(windows) != windows_sha256(windows + 1)


def test_a_window_is_read_from_an_empty_cache_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    session = BigramSession(random_table(64, 1.0, 0))
    session.prefill([1, 2, 3])
    monkeypatch.setattr(windows_module, "_PIECE_BYTES", 0)  # the least: 16 tokens a piece
    window = np.arange(40)
    pieces = list(window_logits(session, window, "window 0"))
    assert [at for at, _ in pieces] == [slice(0, 16), slice(16, 32), slice(32, 39)]
    assert session.position == 39
    np.testing.assert_array_equal(np.concatenate([logits for _, logits in pieces]), session.table[:39])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_an_error_with_its_place(bad: float) -> None:
    table = random_table(64, 1.0, 1)
    table[33, 5] = bad
    with pytest.raises(EdgepressError, match=r"window 7 at position 33"):
        list(window_logits(BigramSession(table), np.arange(64), "window 7"))


def test_the_protocol_names_the_positions_it_scores() -> None:
    assert "positions 0 to 510" in protocol(512)
