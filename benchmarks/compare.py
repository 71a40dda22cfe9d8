"""Two models in turns, A B A B …, so that whatever drifts falls on both alike, and ratios pair by pair.

Each turn is a worker of its own with one repetition after its warm-up. The ratio of a turn is second over first; its
geometric mean over turns comes with Student's t interval on the logarithm. A difference is claimed only where the 95 %
interval leaves 1 out by more than half a percent: below that it would be true but useless.
"""

from __future__ import annotations

import msgspec

from edgepress.benchmarks.cautions import ENOUGH_REPETITIONS, machine_cautions
from edgepress.benchmarks.latency import check_scenario, run_bench
from edgepress.benchmarks.model_facts import model_facts
from edgepress.benchmarks.records import BenchRecord, CompareRecord, PairedRatio, Scenario
from edgepress.benchmarks.statistics import paired_ratio
from edgepress.runtime.locate import ModelFile

# metric: what it is called, and what the ratio says about the second and the first
_METRICS = {
    "decode_tokens_per_s": ("decoding", "{second} decodes {ratio} × as fast as {first}"),
    "prefill_tokens_per_s": ("prefill", "{second} reads a prompt {ratio} × as fast as {first}"),
    "ttft_ms": ("time to first token", "{second} takes {ratio} × as long to the first token as {first}"),
    "peak_rss_bytes": ("peak memory", "{second} needs {ratio} × the memory of {first}"),
}
_USELESS = 0.005


def run_compare(first: ModelFile, second: ModelFile, scenario: Scenario) -> CompareRecord:
    """Measure two models in turns; ``scenario.repetitions`` is the number of pairs.

    Raises:
        InputError, EdgepressError: as :func:`~edgepress.benchmarks.latency.run_bench`.
    """
    for model in (first, second):
        check_scenario(scenario, model_facts(model).context, model)
    turn = msgspec.structs.replace(scenario, repetitions=1)
    first_runs: list[BenchRecord] = []
    second_runs: list[BenchRecord] = []
    for _ in range(scenario.repetitions):
        first_runs.append(run_bench(first, turn))
        second_runs.append(run_bench(second, turn))
    return compare(str(first.path), str(second.path), first_runs, second_runs)


def compare(first: str, second: str, first_runs: list[BenchRecord], second_runs: list[BenchRecord]) -> CompareRecord:
    """Ratios and verdicts of runs that were taken in turns.

    Args:
        first, second: names for the verdict.
        first_runs, second_runs: equally many, in the order of time.
    """
    ratios = {
        metric: paired_ratio(
            [getattr(run, metric) for run in first_runs], [getattr(run, metric) for run in second_runs]
        )
        for metric in _METRICS
    }
    return CompareRecord(
        first=first,
        second=second,
        verdict=tuple(verdict(metric, ratio, first, second) for metric, ratio in ratios.items()),
        ratios=ratios,
        warnings=tuple(_cautions(first_runs, second_runs)),
        first_runs=tuple(msgspec.structs.replace(run, warnings=()) for run in first_runs),
        second_runs=tuple(msgspec.structs.replace(run, warnings=()) for run in second_runs),
    )


def _values(runs: list[BenchRecord], metric: str) -> list[float]:
    return [getattr(run, metric) for run in runs]


def verdict(metric: str, ratio: PairedRatio, first: str, second: str) -> str:
    """What a ratio allows to be said, in a sentence."""
    subject, claim = _METRICS[metric]
    if ratio.low95 is None or ratio.high95 is None:
        return f"{subject}: one pair shows no interval (ratio {ratio.ratio:.2f}); take at least {ENOUGH_REPETITIONS}"
    interval = f"95 % interval {ratio.low95:.2f}-{ratio.high95:.2f}; n = {ratio.pairs} pairs"
    if ratio.low95 <= 1 + _USELESS and ratio.high95 >= 1 - _USELESS:
        return f"{subject}: no difference could be shown (ratio {ratio.ratio:.2f}, {interval})"
    return f"{claim.format(first=first, second=second, ratio=f'{ratio.ratio:.2f}')}, {interval}"


def _cautions(first_runs: list[BenchRecord], second_runs: list[BenchRecord]) -> list[str]:
    """Machine cautions of the first run: the load that later turns see is our own."""
    found = machine_cautions(first_runs[0].environment)
    if len(first_runs) < ENOUGH_REPETITIONS:
        found.append(f"{len(first_runs)} pairs: the interval is a guess; take at least {ENOUGH_REPETITIONS}")
    last = second_runs[-1].environment.after
    if (last.throttle_events or 0) > (first_runs[0].environment.before.throttle_events or 0):
        found.append("the processor throttled for heat during the comparison")
    return list(dict.fromkeys(found))
