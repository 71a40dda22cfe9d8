"""Measurements of exported files, in their own engines: quality, latency, and what they answer.

Each leaves a JSON file in ``measurements/`` named by what was measured (:mod:`~edgepress.pipeline.remembered`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from edgepress.artifact.cache import cache_dir
from edgepress.artifact.weights import WeightSource
from edgepress.benchmarks.latency import run_bench
from edgepress.benchmarks.quality import measure_quality
from edgepress.benchmarks.records import BenchRecord, QualityRecord, Scenario
from edgepress.benchmarks.reference_cache import ReferenceLogits
from edgepress.benchmarks.windows import Tokens, cut_windows
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.calibrate.tokens import calibration_windows, read_text
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.remembered import forget_other_measurements, model_identity, remember
from edgepress.pipeline.stages import stage_key
from edgepress.recipe import Bench, Evaluate, Samples
from edgepress.runtime.locate import ModelFile, open_session
from edgepress.runtime.session import Session
from edgepress.runtime.text import TextCodec

# Of the student's own evaluation text; the plan refuses it for calibration.
EVALUATION_SEED = 1_000_003


class EvaluationText(msgspec.Struct, frozen=True, kw_only=True):
    """Windows to score, int64 (windows, context), and the identity of the text behind them; ``bos``: each window begins
    with a token that the tokenizer puts before every text.
    """

    windows: Tokens
    text_sha256: str | None
    bos: bool = False


def text_windows(source: WeightSource, files: tuple[Path, ...], tokens: int, context: int) -> EvaluationText:
    """Windows from text files; where the tokenizer puts a BOS before a text, every window starts with it.

    Raises:
        InputError: a file that cannot be read, too little text, or a context beyond the model's.
    """
    check_context(source, context)
    codec = TextCodec(source.tokenizer_dir)
    texts = [read_text(path) for path in files]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    ids = [token for text in texts for token in codec.encode(text, special=False)]
    if codec.bos is None:
        return EvaluationText(windows=cut_windows(ids, context, tokens), text_sha256=digest)
    if context < 3:
        raise InputError(f"context {context} leaves nothing to predict after the BOS; at least 3 tokens are needed")
    windows = cut_windows(ids, context - 1, tokens)
    start = np.full((len(windows), 1), codec.bos, windows.dtype)
    return EvaluationText(windows=np.concatenate([start, windows], axis=1), text_sha256=digest, bos=True)


def own_windows(student: Student, tokens: int, context: int) -> EvaluationText:
    """Windows that the student writes itself, for recipes that name no evaluation text."""
    context = min(context, student.spec.context)
    calibration = Calibration(samples=max(1, tokens // context), length=context, seed=EVALUATION_SEED)
    return EvaluationText(windows=calibration_windows(student, calibration).astype(np.int64), text_sha256=None)


def check_context(source: WeightSource, context: int) -> None:
    """Refuse a window longer than the model's context.

    Raises:
        InputError: with both numbers.
    """
    if context > source.spec.context:
        raise InputError(f"context {context} exceeds the student's {source.spec.context} tokens")


def reference_logits(student: Student, windows: Tokens) -> ReferenceLogits:
    """The student's own logits, cached on disk."""

    def open_reference() -> Session:
        from edgepress.runtime.torch_reference import TorchSession

        return TorchSession(student, context=windows.shape[1])

    return ReferenceLogits(cache_dir(), student.digest(), windows, open_reference)


def evaluate_model(model: ModelFile, student: Student, text: EvaluationText) -> QualityRecord:
    """Quality of a model file against its student.

    Raises:
        InputError: the file is damaged, or its vocabulary is not the student's.
    """
    context = text.windows.shape[1]
    reference = reference_logits(student, text.windows)
    if reference.missing():
        open_session(model, context=context).close()  # damage shows before the reference is computed, not after
    reference.fill()
    with open_session(model, context=context) as session:
        return measure_quality(
            session,
            reference,
            text.windows,
            file_bytes=model.file_bytes,
            parameters=student.parameters,
            text_sha256=text.text_sha256,
            bos=text.bos,
        )


def measure_run(
    student: Student,
    models: dict[str, ModelFile],
    out: Path,
    peers: dict[str, ModelFile],
    *,
    evaluate: Evaluate | None,
    bench: Bench | None,
    samples: Samples | None,
) -> None:
    """All measurements of a run, written to ``out/measurements``; ``models`` maps labels to files.

    Of ``peers`` only the quality is measured: their speed is that of any file of the same types. So it is of graphs for
    TensorRT where no engine runs: the speed of ONNX Runtime would say nothing about a GPU's.

    What an earlier recipe measured there and this one does not is removed: it would describe files that are gone.
    """
    folder = out / "measurements"
    scored = models | peers
    timed_models = {label: model for label, model in models.items() if not model.stands_in}
    wanted = {"shape"} | {f"quality-{label}" for label in scored if evaluate}
    wanted |= {f"latency-{label}" for label in timed_models if bench}
    wanted |= {"tensors"} if evaluate and evaluate.tensors else set()
    forget_other_measurements(folder, wanted | ({"samples"} if samples else set()))
    identity = {label: model_identity(model) for label, model in scored.items()}
    if evaluate is not None:
        text = evaluation_text(student, evaluate)
        asked = (evaluate.files, evaluate.tokens, evaluate.context)
        for label, model in scored.items():
            key = stage_key("quality", identity[label], student.digest(), asked, text.text_sha256)
            measured = partial(evaluate_model, model, student, text)
            remember(folder / f"quality-{label}.json", key, QualityRecord, measured)
    if bench is not None:
        for label, model in timed_models.items():
            scenario = bench_scenario(bench, student.spec.context)
            key = stage_key("latency", identity[label], scenario)
            timed = partial(run_bench, model, scenario, parameters=student.parameters)
            remember(folder / f"latency-{label}.json", key, BenchRecord, timed)
    if samples is not None:
        key = stage_key("samples", {label: identity[label] for label in models}, student.digest(), samples)
        remember(folder / "samples.json", key, dict[str, object], partial(_answers, student, models, samples))


def bench_scenario(bench: Bench, context: int) -> Scenario:
    """A recipe's bench section as a scenario; shortened to the context of very short models, which the record shows."""
    spare = max(2, context - max(bench.depth))
    generate = min(bench.generate, max(1, spare // 2))
    return Scenario(
        prompt=min(bench.prompt, max(1, spare - generate)),
        generate=generate,
        depths=bench.depth,
        repetitions=bench.repetitions,
        threads=bench.threads,
    )


def answer(session: Session, prompt: list[int], tokens: int, stop_ids: frozenset[int]) -> list[int]:
    """Greedy continuation of a prompt, at most ``tokens`` ids, ending before a stop id or at the end of the context."""
    session.reset()
    logits = session.prefill(prompt, logits="last")[0]
    written: list[int] = []
    while len(written) < tokens:
        best = int(logits.argmax())
        if best in stop_ids:
            break
        written.append(best)
        if session.position >= session.context_limit:
            break
        logits = session.decode(best)
    return written


def evaluation_text(student: Student, evaluate: Evaluate) -> EvaluationText:
    """The text that a recipe's evaluate section asks for."""
    context = min(evaluate.context, student.spec.context)
    if evaluate.files:
        return text_windows(student, tuple(Path(name) for name in evaluate.files), evaluate.tokens, context)
    return own_windows(student, evaluate.tokens, context)


def _answers(student: Student, models: dict[str, ModelFile], samples: Samples) -> dict[str, object]:
    from edgepress.runtime.torch_reference import TorchSession

    codec = TextCodec(student.tokenizer_dir)
    prompts = [codec.chat([{"role": "user", "content": prompt}]) for prompt in samples.prompts]
    context = min(student.spec.context, max(len(ids) for ids in prompts) + samples.tokens)
    prompts = [ids[: context - 1] for ids in prompts]
    answers: list[dict[str, str]] = [{} for _ in prompts]
    openers: dict[str, Callable[[], Session]] = {"student": lambda: TorchSession(student, context=context)}
    openers |= {label: partial(open_session, model, context=context) for label, model in models.items()}
    for label, opener in openers.items():
        with opener() as session:
            for place, ids in enumerate(prompts):
                answers[place][label] = codec.decode(answer(session, ids, samples.tokens, codec.stop_ids))
    listed = [{"prompt": text, "answers": found} for text, found in zip(samples.prompts, answers, strict=True)]
    return {"tokens": samples.tokens, "samples": listed}
