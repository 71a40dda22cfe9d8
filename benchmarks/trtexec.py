"""What trtexec wrote, as one record: per-iteration times, per-layer times, and what it printed.

``--exportTimes``     an array with an object per iteration; TensorRT up to 8.0 calls the transfers in and out
``--exportProfile``   first an object with the count, then one per layer
stdout                "[I] GPU Compute Time: min = … ms, …", the command in the last line; of what TensorRT 7
                      prints, which spreads these numbers over lines and leaves out its version, only the command

The compute time is the engine's own; the latency adds the transfers, which on a Jetson are copies inside one memory.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from edgepress.benchmarks.statistics import percentiles
from edgepress.errors import InputError

_NAMES = {
    "compute": ("computeMs",),
    "latency": ("latencyMs", "endToEndMs"),
    "h2d": ("h2dMs", "inMs"),
    "d2h": ("d2hMs", "outMs"),
}
_STATISTICS = re.compile(r"\[I\] (GPU Compute Time|Latency|Enqueue Time|H2D Latency|D2H Latency): (min = .*)")
_NUMBER = r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
_PAIR = re.compile(rf"([\w().%]+) = {_NUMBER} ms")
_THROUGHPUT = re.compile(rf"\[I\] Throughput: {_NUMBER} qps")
_RUN = "&&&& RUNNING TensorRT.trtexec"
_END = re.compile(r"&&&& (PASSED|FAILED) TensorRT\.trtexec(?: \[TensorRT v(\d+)\](?: \[b\d+\])?)? # (.*)")
_SHAPES = re.compile(r"--shapes='?([^'\s]+)")
_ENDINGS = re.compile(r"(?:\.(?:times|profile|raw))?\.(?:json|log|txt)$")
_SIZES = re.compile(r"[1-9][0-9]{0,8}(?:x[0-9]{1,9})*|0(?:x[0-9]{1,9})*")
_ARRAY = re.compile(r"\s*\[\s*\{")  # messages begin with a bracket, too: "[08/01/2025-10:00:00] [I] …"
_FROM_TEN = 100_000  # versions are written in more digits from TensorRT 10 on


class LayerTime(msgspec.Struct, frozen=True, kw_only=True):
    """A layer's mean time per iteration and its share of the whole."""

    name: str
    average_ms: float
    percentage: float


class TrtexecRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One timed profile. Samples come from exported times; ``printed`` holds the statistics that stdout gave, in ms.

    ``shapes`` and ``tokens_per_iteration`` are known where the log is among the files. ``tokens_per_s`` is by the
    median compute time.
    """

    name: str
    files: tuple[str, ...]
    tensorrt_version: str | None
    passed: bool | None
    command: str | None
    shapes: dict[str, tuple[int, ...]]
    tokens_per_iteration: int | None
    compute_ms_p50: float | None
    compute_ms_p90: float | None
    compute_ms_p99: float | None
    latency_ms_p50: float | None
    tokens_per_s: float | None
    throughput_per_s: float | None
    printed: dict[str, dict[str, float]]
    samples_compute_ms: tuple[float, ...]
    samples_latency_ms: tuple[float, ...]
    samples_h2d_ms: tuple[float, ...]
    samples_d2h_ms: tuple[float, ...]
    layers: tuple[LayerTime, ...]


def read_trtexec(paths: Iterable[Path]) -> list[TrtexecRecord]:
    """Records of all files; ``NAME.times.json``, ``NAME.profile.json`` and ``NAME.log`` of a folder are one.

    Files of several folders, that is, of several engines, have as much of the folder in their record's name as differs.
    Of a log with several runs the last one counts.

    Raises:
        InputError: a file that is none of the three, or the second of its kind.
    """
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        groups.setdefault((path.parent, _ENDINGS.sub("", path.name)), []).append(path)
    folders = {folder for folder, _name in groups}
    shared = Path(os.path.commonpath([folder.absolute() for folder in folders])) if len(folders) > 1 else None
    return [
        _record(str(folder.absolute().relative_to(shared) / name) if shared else name, files)
        for (folder, name), files in groups.items()
    ]


def _record(name: str, files: list[Path]) -> TrtexecRecord:
    samples: dict[str, tuple[float, ...]] = {}
    layers: tuple[LayerTime, ...] = ()
    log: dict[str, Any] = {}
    kinds: set[str] = set()
    for path in files:
        content = _content(path)
        if isinstance(content, str):
            kind, log = "messages", _log(path, content)
        elif content and "count" in content[0]:
            kind, layers = "a profile", _layers(path, content[1:])
        else:
            kind, samples = "times", _samples(path, content)
        if kind in kinds:
            raise InputError(f"{path}: {kind} of {name} for the second time; name the files of each run alike")
        kinds.add(kind)
    compute, latency = samples.get("compute", ()), samples.get("latency", ())
    p50, p90, p99 = percentiles(list(compute), (50, 90, 99)) if compute else _printed(log)
    tokens = _tokens(log.get("shapes", {}))
    return TrtexecRecord(
        name=name,
        files=tuple(str(path) for path in files),
        tensorrt_version=log.get("version"),
        passed=log.get("passed"),
        command=log.get("command"),
        shapes=log.get("shapes", {}),
        tokens_per_iteration=tokens,
        compute_ms_p50=p50,
        compute_ms_p90=p90,
        compute_ms_p99=p99,
        latency_ms_p50=percentiles(list(latency), (50,))[0] if latency else None,
        tokens_per_s=tokens * 1000 / p50 if tokens and p50 else None,
        throughput_per_s=log.get("throughput"),
        printed=log.get("printed", {}),
        samples_compute_ms=compute,
        samples_latency_ms=latency,
        samples_h2d_ms=samples.get("h2d", ()),
        samples_d2h_ms=samples.get("d2h", ()),
        layers=layers,
    )


def _content(path: Path) -> str | list[dict[str, Any]]:
    try:
        text = _decoded(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not _ARRAY.match(text):
        if "TensorRT.trtexec" not in text and not _STATISTICS.search(text):
            raise InputError(f"{path}: neither times, a profile nor the messages of trtexec")
        return text
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON of trtexec ({error})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: wanted an array of objects, as trtexec exports them")
    return list(rows)


def _decoded(content: bytes) -> str:
    """UTF-8, or what Windows' shells write into a file: a mark and UTF-16."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def _samples(path: Path, rows: list[dict[str, Any]]) -> dict[str, tuple[float, ...]]:
    found: dict[str, tuple[float, ...]] = {}
    for kind, names in _NAMES.items():
        name = next((name for name in names if rows and name in rows[0]), None)
        if name is not None:
            found[kind] = tuple(_number(path, row, name) for row in rows)
    if "compute" not in found:
        raise InputError(f"{path}: no computeMs in it; wanted what trtexec --exportTimes or --exportProfile writes")
    return found


def _layers(path: Path, rows: list[dict[str, Any]]) -> tuple[LayerTime, ...]:
    return tuple(
        LayerTime(
            name=str(row.get("name", "")),
            average_ms=_number(path, row, "averageMs"),
            percentage=_number(path, row, "percentage"),
        )
        for row in rows
    )


def _number(path: Path, row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{path}: {name} is {value!r:.40}, wanted milliseconds")
    try:
        return float(value)
    except OverflowError as error:
        raise InputError(f"{path}: {name} is {value!r:.40}…, wanted milliseconds") from error


def _log(path: Path, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {"printed": {}}
    text = text[max(0, text.rfind(_RUN)) :]
    for kind, numbers in _STATISTICS.findall(text):
        found["printed"][kind] = {name: float(value) for name, value in _PAIR.findall(numbers)}
    if throughput := _THROUGHPUT.search(text):
        found["throughput"] = float(throughput[1])
    if ends := _END.findall(text):
        state, version, command = ends[-1]
        found |= {"passed": state == "PASSED", "command": command.strip()}
        found |= {"version": _version(version)} if version else {}
        if shapes := _SHAPES.search(command):
            found["shapes"] = _parse_shapes(path, shapes[1])
    return found


def _version(digits: str) -> str:
    """100300 is 10.3.0, 8502 is 8.5.2."""
    number = int(digits)
    if number >= _FROM_TEN:
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return f"{number // 1000}.{number // 100 % 10}.{number % 100}"


def _parse_shapes(path: Path, text: str) -> dict[str, tuple[int, ...]]:
    """Of the inputs that the command names; a model's only input may go without."""
    found = {}
    for entry in text.split(","):
        name, _, sizes = entry.rpartition(":")
        if not _SIZES.fullmatch(sizes):
            raise InputError(f"{path}: the shapes {entry[:80]!r} in its command cannot be read")
        if name:
            found[name] = tuple(int(size) for size in sizes.split("x"))
    return found


def _tokens(shapes: dict[str, tuple[int, ...]]) -> int | None:
    ids = shapes.get("input_ids")
    return ids[0] * ids[1] if ids is not None and len(ids) == 2 else None


def _printed(log: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    """Percentiles as far as stdout gave them, where no times were exported."""
    times = log.get("printed", {}).get("GPU Compute Time", {})
    return times.get("median"), times.get("percentile(90%)"), times.get("percentile(99%)")
