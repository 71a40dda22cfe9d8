"""Everything that it takes to get to the same files and the same numbers again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from edgepress.artifact.manifest import Manifest
from edgepress.benchmarks.records import BenchRecord, QualityRecord
from edgepress.benchmarks.report.artifacts import Artifact, shipped
from edgepress.benchmarks.report.contents import Contents
from edgepress.benchmarks.report.numerals import whole

Fact = tuple[str, str]
_BUILT_IN = re.compile(r"built-in (?P<name>\S+) ")


class Protocol(msgspec.Struct, frozen=True, kw_only=True):
    """How something was measured: a sentence each, under a title."""

    title: str
    sentences: tuple[str, ...]


def recipe_yaml(manifest: Manifest) -> str:
    """The recipe with all its defaults."""
    return yaml.safe_dump(manifest.lineage.recipe, sort_keys=False, allow_unicode=True, width=100).rstrip()


def identity_facts(manifest: Manifest) -> tuple[Fact, ...]:
    """Student, calibration text and tools."""
    lineage = manifest.lineage
    types = ", ".join(f"{kind} ({count} tensors)" for kind, count in sorted(lineage.student_stored_types.items()))
    facts = [
        ("student", lineage.student),
        ("from", lineage.student_source),
        ("stored as", types or "unknown"),
        ("digest of the student", lineage.student_digest),
        ("digest of the calibration text", lineage.calibration_digest or "none needed"),
        ("seeds", ", ".join(f"{path} {seed}" for path, seed in _seeds(lineage.recipe, "")) or "none"),
    ]
    return (*facts, *((name, version) for name, version in lineage.tools.items()))


def _seeds(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """Every ``seed`` in the recipe, with its place."""
    if isinstance(node, dict):
        for key, value in node.items():
            place = f"{path}.{key}" if path else str(key)
            if key == "seed":
                yield place, value
            else:
                yield from _seeds(value, place)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _seeds(value, f"{path}[{index}]")


def command_lines(manifest: Manifest, artifacts: tuple[Artifact, ...]) -> str:
    """The commands, for a shell in which ``recipe.yaml`` holds the recipe above."""
    student = _student_argument(manifest)
    lines = [f"edgepress run {student} --recipe recipe.yaml -o OUT"]
    evaluate = manifest.lineage.recipe.get("evaluate") or {}
    for artifact in shipped(artifacts):
        place = shlex.quote(f"OUT/{artifact.label}")
        if artifact.quality and evaluate.get("files"):
            texts = " ".join(f"--text {shlex.quote(str(name))}" for name in evaluate["files"])
            lengths = f"--tokens {evaluate.get('tokens')} --context {artifact.quality.context}"
            lines.append(f"edgepress eval {place} --against {student} {texts} {lengths} --json")
        if artifact.latency:
            lines.append(f"edgepress bench {place} {_bench_options(artifact.latency)} --json")
    return "\n".join(lines)


def _student_argument(manifest: Manifest) -> str:
    source = manifest.lineage.student_source
    found = _BUILT_IN.match(source)
    return shlex.quote(found["name"] if found else source)


def _bench_options(latency: BenchRecord) -> str:
    scenario = latency.scenario
    depths = " ".join(f"--depth {depth}" for depth in scenario.depths)
    return (
        f"--prompt {scenario.prompt} --generate {scenario.generate} {depths} "
        f"--repetitions {scenario.repetitions} --threads {latency.n_threads}"
    )


def protocols(contents: Contents) -> tuple[Protocol, ...]:
    """How quality, speed and samples were measured; files measured alike share a sentence."""
    quality = tuple(dict.fromkeys(line for record in contents.quality.values() for line in _quality_protocol(record)))
    speed = tuple(dict.fromkeys(line for record in contents.latency.values() for line in _speed_protocol(record)))
    samples = contents.samples
    answers = (f"greedy, at most {samples.tokens} tokens, in the model's chat template",) if samples else ()
    found = (("Quality", quality), ("Speed and memory", speed), ("Answers", answers))
    return tuple(Protocol(title=title, sentences=sentences) for title, sentences in found if sentences)


def _quality_protocol(record: QualityRecord) -> tuple[str, ...]:
    text = f"sha256 {record.text_sha256}" if record.text_sha256 else "written by the student itself, from another seed"
    return (
        record.protocol,
        f"{whole(record.tokens)} positions in {record.windows} windows; windows' sha256 {record.windows_sha256}",
        f"evaluation text: {text}",
        f"reference: the student's own logits in float32, digest {record.reference}",
        f"± is one standard error, {record.se_method}",
        f"engine {record.engine}: {record.engine_version}",
    )


def _speed_protocol(record: BenchRecord) -> tuple[str, ...]:
    scenario = record.scenario
    depths = ", ".join(str(depth) for depth in scenario.depths)
    return (
        f"each repetition: {scenario.prompt} tokens at once, then {scenario.generate} one by one, "
        f"with {depths} tokens in the cache before",
        f"{scenario.repetitions} repetitions on {record.n_threads} threads in a process of its own; "
        f"token ids from seed {scenario.seed}; warm-up: {record.warmup}",
        "rates are medians of the repetitions; intervals bound their mean (bootstrap, widened for few repetitions)",
        f"engine {record.engine}: {record.engine_version}",
    )
