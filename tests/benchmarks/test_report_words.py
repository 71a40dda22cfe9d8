"""The report's pure parts: digits, claims, parts of memory, label places."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_output import make_bench, make_quality

from edgepress.benchmarks.records import BenchRecord, PeakMemory, QualityRecord
from edgepress.benchmarks.report.artifacts import Artifact
from edgepress.benchmarks.report.figures.label_places import place_labels
from edgepress.benchmarks.report.figures.memory import peak_parts
from edgepress.benchmarks.report.figures.token_latency import cut_words, frame_ms, step_times
from edgepress.benchmarks.report.numerals import change, join_words, megabytes_column, plus_minus, significant
from edgepress.benchmarks.report.samples import common_start
from edgepress.benchmarks.report.verdict import lead, speed_ratio


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.11604, 0.00417, "0.1160 ± 0.0042"),
        (31.987, 0.512, "31.99 ± 0.51"),
        (1234.4, 31.0, "1,234 ± 31"),
        (-0.0201, 0.0104, "−0.020 ± 0.010"),
        (1.93e-6, 2.4e-7, "1.93×10⁻⁶ ± 2.4×10⁻⁷"),
        (0.5, 0.0, "0.5000"),
        (0.5, float("nan"), "0.5000"),
    ],
)
def test_the_error_decides_how_many_digits_are_shown(value: float, error: float, text: str) -> None:
    assert plus_minus(value, error) == text


@given(value=st.floats(1e-4, 1e6), share=st.floats(1e-3, 1))
def test_what_is_shown_is_within_a_tenth_of_the_error(value: float, share: float) -> None:
    error = max(value * share, 2e-4)
    shown, shown_error = (float(part.replace(",", "")) for part in plus_minus(value, error).split(" ± "))
    assert abs(shown - value) <= max(0.06 * error, 0.5 if error >= 10 else 0)
    assert shown_error == pytest.approx(error, rel=0.06)


def test_numbers_are_typeset() -> None:
    assert significant(0.0231) == "0.0231"
    assert significant(12345.6) == "12,346"
    assert significant(-0.5) == "−0.500"
    assert change(0.98, 0.004) == "−2.00 ± 0.40 %"
    assert change(1.095, 0.004) == "+9.50 ± 0.40 %"
    assert megabytes_column([91_726_016, None, 141_000]) == ["91.7", "–", "0.1"]
    assert megabytes_column([141_000, 2_000]) == ["0.141", "0.002"]
    assert [join_words(list(words)) for words in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]


def _artifact(label: str, latency: BenchRecord | None = None, quality: QualityRecord | None = None) -> Artifact:
    return Artifact(
        label=label,
        title=label,
        colour="#000000",
        symbol="circle",
        quality=quality,
        latency=latency,
        listed_bytes=None,
    )


def test_a_speed_is_compared_only_with_its_like() -> None:
    baseline, twice = make_bench(10.0, 9), make_bench(5.0, 9)
    fast = _artifact("gguf", twice)
    assert speed_ratio(fast, _artifact("baseline", baseline)).startswith(
        f"{twice.decode_tokens_per_s / baseline.decode_tokens_per_s:.2f} ×"
    )
    assert speed_ratio(fast, None) == ""
    for other in (
        msgspec.structs.replace(baseline, n_threads=4),
        msgspec.structs.replace(baseline, cpu_info="another"),
        make_bench(10.0, 9, prompt=50),
    ):
        assert speed_ratio(fast, _artifact("baseline", other)) == ""


def test_overlapping_intervals_and_single_repetitions_show_no_difference() -> None:
    one, other = make_bench(10.0, 9), make_bench(10.02, 9)
    assert "no difference" in speed_ratio(_artifact("gguf", one), _artifact("baseline", other))
    single, slow = make_bench(5.0, 9, repetitions=1), make_bench(10.0, 9, repetitions=1)
    assert "no difference" in speed_ratio(_artifact("gguf", single), _artifact("baseline", slow))


def test_perplexity_is_said_to_change_only_beyond_its_error(tmp_path: Path) -> None:
    record = make_quality(0.4, 9, tmp_path)
    for ratio, error, words in (
        (1.095, 0.004, "raises perplexity by 9.50 ± 0.40 %"),
        (0.95, 0.01, "lowers perplexity by 5.0 ± 1.0 %"),
        (1.01, 0.004, "no change of perplexity"),  # 2.5 standard errors of 6 windows: t is 2.57
    ):
        changed = msgspec.structs.replace(record, ppl_ratio=ratio, ppl_ratio_se=error)
        (sentence,) = lead((_artifact("gguf", quality=changed),))
        assert words in sentence


@given(
    private=st.integers(0, 10**9), pages=st.integers(0, 10**9), rest=st.integers(0, 10**8), cache=st.integers(0, 10**9)
)
def test_the_parts_of_a_peak_sum_to_it(private: int, pages: int, rest: int, cache: int) -> None:
    memory = PeakMemory(
        peak_rss_bytes=private + pages + rest,
        start_rss_bytes=0,
        peak_anonymous_bytes=private,
        peak_file_bytes=pages,
        engine_weights_bytes=0,
        engine_kv_cache_bytes=cache,
    )
    parts = {part.name: part.bytes for part in peak_parts(memory)}
    assert sum(parts.values()) == memory.peak_rss_bytes
    assert all(count > 0 for count in parts.values())
    assert parts.get("KV cache", 0) == (cache if cache <= private else 0)
    unsplit = msgspec.structs.replace(memory, peak_anonymous_bytes=None)
    assert [(part.name, part.bytes) for part in peak_parts(unsplit)] == [("not split", memory.peak_rss_bytes)]


def test_spikes_beyond_the_frame_are_counted() -> None:
    bench = make_bench(5.0, 9)
    assert cut_words((_artifact("gguf", bench),)) == ""
    steps = [list(repetition) for repetition in bench.samples_token_ms]
    steps[1][3], steps[4][7] = 70.0, 99.0
    spiky = msgspec.structs.replace(bench, samples_token_ms=tuple(map(tuple, steps)))
    words = cut_words((_artifact("gguf", spiky),))
    assert words == "2 of 100 tokens rise above the frame, the slowest took 99 ms."
    assert np.median(step_times(spiky), axis=0).max() < frame_ms([step_times(spiky)]) < 70


@pytest.mark.parametrize(
    ("text", "student", "same"),
    [
        ("one two four", "one two three", "one two "),
        ("one twofold", "one two", "one "),
        ("one two", "one two three", "one two"),
        ("one two", "one two", "one two"),
        ("other", "one", ""),
        ("", "one", ""),
        ("a = max(a)", "a = min(a)", "a = "),
    ],
)
def test_answers_part_at_a_word(text: str, student: str, same: str) -> None:
    assert common_start(text, student) == same


@given(st.text("ab c\n", max_size=20), st.text("ab c\n", max_size=20))
def test_the_common_start_is_common(text: str, student: str) -> None:
    same = common_start(text, student)
    assert text.startswith(same)
    assert student.startswith(same)


def test_labels_of_near_points_go_apart_and_stay_inside() -> None:
    assert place_labels([(95, 60), (100, 64)], ["ONNX", "GGUF"], (280, 290)) == ["middle left", "middle right"]
    (right_edge,) = place_labels([(270, 100)], ["f16 baseline"], (280, 290))
    assert right_edge.endswith("left")
    crowd = [(100.0, 100.0 + 5 * place) for place in range(3)]
    assert len(set(place_labels(crowd, ["first", "second", "third"], (280, 290)))) == 3
