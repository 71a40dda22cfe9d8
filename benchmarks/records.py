"""Records: what a measurement leaves behind. Raw samples come first, everything else can be recomputed from them.

``BenchRecord`` is a superset of one object of ``llama-bench -o json``: :class:`LlamaBenchRow` lists those names and
types in llama-bench's order (llama.cpp as of llama-cpp-python 0.3.36). What an engine does not tell is an empty string
or zero there, and None in our own fields.
"""

from __future__ import annotations

import msgspec

from edgepress.runtime.environment import Environment


class QualityRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How far a model in its engine is from the reference on a text.

    ``kld_*`` in nats; ``ppl*`` are exponentials of the mean negative log-likelihood per token; ``ppl_ratio`` is the
    model's over the reference's, its error taken from paired differences. ``*_se`` are standard errors by windows
    (``se_method``). The ``window_*`` means allow all of them but the percentiles to be recomputed.
    """

    engine: str
    engine_version: str
    reference: str
    protocol: str
    kld_mean: float
    kld_se: float
    kld_p50: float
    kld_p99: float
    kld_max: float
    top1_agreement: float
    top1_se: float
    ppl: float
    ppl_se: float
    ppl_reference: float
    ppl_reference_se: float
    ppl_ratio: float
    ppl_ratio_se: float
    se_method: str
    tokens: int
    windows: int
    context: int
    file_bytes: int
    parameters: int
    bits_per_weight: float
    text_sha256: str | None
    windows_sha256: str
    seconds: float
    window_kld: tuple[float, ...]
    window_top1_agreement: tuple[float, ...]
    window_nll: tuple[float, ...]
    window_nll_reference: tuple[float, ...]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """What repetitions say. ``low95`` and ``high95`` bound the mean (bootstrap); None for a single repetition."""

    n: int
    mean: float
    stdev: float | None
    median: float
    low95: float | None
    high95: float | None


class PairedRatio(msgspec.Struct, frozen=True, kw_only=True):
    """Second over first, pair by pair; ``ratio`` is the geometric mean of ``samples``."""

    ratio: float
    low95: float | None
    high95: float | None
    pairs: int
    samples: tuple[float, ...]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What a bench does at each depth, ``repetitions`` times: fill ``depth`` tokens untimed, then time ``prompt``
    tokens at once and ``generate`` tokens one by one. ``context`` None opens just as much cache as that needs;
    ``threads`` None takes the physical cores this process may use. ``seed`` draws the token ids.
    """

    prompt: int = 512
    generate: int = 128
    depths: tuple[int, ...] = (0,)
    repetitions: int = 5
    threads: int | None = None
    context: int | None = None
    seed: int = 0

    @property
    def tokens_needed(self) -> int:
        """Tokens in the cache at the end of the deepest repetition."""
        return max(self.depths) + self.prompt + self.generate


class LlamaBenchRow(msgspec.Struct, frozen=True, kw_only=True):
    """One test, named and typed as llama-bench does. A prompt test has n_gen 0, a generation test n_prompt 0;
    ``n_depth`` counts the tokens already in the cache, so that generation after a prompt has the prompt in it.
    """

    build_commit: str
    build_number: int = 0
    cpu_info: str
    gpu_info: str = ""
    backends: str = "CPU"
    model_filename: str
    model_type: str
    model_size: int
    model_n_params: int
    n_batch: int = 0
    n_ubatch: int = 0
    n_threads: int
    cpu_mask: str = "0x0"
    cpu_strict: bool = False
    poll: int = 0
    type_k: str = ""
    type_v: str = ""
    n_gpu_layers: int = 0
    n_cpu_moe: int = 0
    split_mode: str = "none"
    main_gpu: int = 0
    no_kv_offload: bool = False
    flash_attn: int = -1
    devices: str = "auto"
    tensor_split: str = "0.00"
    tensor_buft_overrides: str = "none"
    load_mode: str = ""
    lazy_mode: str = ""
    embeddings: bool = False
    no_op_offload: int = 0
    no_host: bool = False
    repack: bool = False
    fit_target: int = 0
    fit_min_ctx: int = 0
    n_prompt: int
    n_gen: int
    n_depth: int
    test_time: str
    avg_ns: int
    stddev_ns: int
    avg_ts: float
    stddev_ts: float
    samples_ns: tuple[int, ...]
    samples_ts: tuple[float, ...]


class DepthRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured with ``depth`` tokens in the cache before the prompt.

    ``samples_prefill_ms`` has one entry per repetition, ``samples_token_ms`` one list of steps per repetition; both
    include picking the most likely token. Rates are medians over repetitions, ``*_spread`` says how far they scatter.
    """

    depth: int
    ttft_ms: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    token_ms_p50: float
    token_ms_p90: float
    token_ms_p99: float
    ttft_ms_spread: Spread
    prefill_tokens_per_s_spread: Spread
    decode_tokens_per_s_spread: Spread
    samples_prefill_ms: tuple[float, ...]
    samples_token_ms: tuple[tuple[float, ...], ...]


class PeakMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of the worker process. ``peak_rss_bytes`` is the kernel's high-water mark (VmHWM);
    ``start_rss_bytes`` is Python and numpy before the model is opened. The split into private memory and mapped file
    pages is that of the largest snapshot taken between the phases, None where the kernel does not tell.
    """

    peak_rss_bytes: int
    start_rss_bytes: int
    peak_anonymous_bytes: int | None
    peak_file_bytes: int | None
    engine_weights_bytes: int
    engine_kv_cache_bytes: int


class BenchRecord(LlamaBenchRow, frozen=True, kw_only=True):
    """A whole bench. The llama-bench fields and those of :class:`DepthRecord` at this level are the first depth's
    generation test; ``tests`` has a row for every prompt and generation test, ``depths`` our figures for every depth.
    """

    engine: str
    engine_version: str
    load_ms: float
    warmup: str
    ttft_ms: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    decode_tokens_per_s_spread: Spread
    token_ms_p50: float
    token_ms_p90: float
    token_ms_p99: float
    peak_rss_bytes: int
    file_bytes: int
    memory: PeakMemory
    samples_prefill_ms: tuple[float, ...]
    samples_token_ms: tuple[tuple[float, ...], ...]
    scenario: Scenario
    environment: Environment
    warnings: tuple[str, ...]
    depths: tuple[DepthRecord, ...]
    tests: tuple[LlamaBenchRow, ...]


class CompareRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Two models measured in turns. ``ratios`` are second over first, by metric; ``verdict`` says them in words.

    ``first_runs`` and ``second_runs`` hold each turn's complete record.
    """

    first: str
    second: str
    verdict: tuple[str, ...]
    ratios: dict[str, PairedRatio]
    warnings: tuple[str, ...]
    first_runs: tuple[BenchRecord, ...]
    second_runs: tuple[BenchRecord, ...]
