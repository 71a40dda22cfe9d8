"""Made-up results of the comparisons with other tools."""

from __future__ import annotations

from pathlib import Path

from edgepress.benchmarks.peers.judged import Entry
from edgepress.benchmarks.peers.llama_tools import Divergence
from edgepress.benchmarks.peers.measured import Run


def run_of(wall_s: float = 1.0, peak_rss_bytes: int = 1000) -> Run:
    """A command that took this long."""
    return Run(command=("tool",), wall_s=wall_s, cpu_s=2 * wall_s, peak_rss_bytes=peak_rss_bytes)


def entry_of(maker: str, method: str, kld: float, making: list[Run], file_bytes: int = 100) -> Entry:
    """A q4_0 file that lost ``kld`` nats."""
    lost = Divergence(
        kld_mean=kld,
        kld_se=0.001,
        kld_p99=1.0,
        kld_max=2.0,
        top1_agreement_percent=90.0,
        top1_se_percent=0.1,
        ppl=10.0,
        ppl_se=0.1,
        ppl_reference=9.0,
    )
    return Entry(
        format="q4_0",
        maker=maker,
        method=method,
        path=Path("model.gguf"),
        file_bytes=file_bytes,
        types={"Q4_0": 1},
        embedding="Q8_0",
        making=making,
        divergence=lost,
    )
