"""An output directory for the report, of records that the real code makes from invented samples; and a page's parts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from bigram_session import BigramSession, random_table

from edgepress.artifact.families import EMBEDDING, LINEARS, layer_name
from edgepress.artifact.manifest import FileEntry, Lineage, Manifest, write_manifest
from edgepress.benchmarks.latency import make_record
from edgepress.benchmarks.quality import measure_quality
from edgepress.benchmarks.records import BenchRecord, PeakMemory, QualityRecord, Scenario
from edgepress.benchmarks.reference_cache import ReferenceLogits
from edgepress.benchmarks.worker import DepthSamples, Result
from edgepress.runtime.environment import Environment, read_machine, read_state

DEPTH = 3
PARAMETERS = 20_000_000
RECIPE: dict[str, Any] = {
    "calibration": {"self": True, "files": [], "samples": 4, "seed": 17},
    "compress": [{"step": "quantize", "solver": "scale_search", "format": "q4_0", "formats": {"*.ffn_down": "q5_0"}}],
    "evaluate": {"files": ["text one.txt"], "tokens": 64, "context": 9},
}
ERRORS = {
    layer_name(layer, part): 1e-4 * 10 ** (layer + place / 7)
    for layer in range(DEPTH)
    for place, part in enumerate(LINEARS.values())
}


def make_manifest(out: Path, *, name: str = "tiny student", **lineage: Any) -> Manifest:
    """Write a manifest of a model with three layers."""
    facts: dict[str, Any] = {
        "student": "tiny",
        "student_source": "dir with space/tiny",
        "student_digest": "d1" * 32,
        "student_stored_types": {"BF16": 22, "F32": 7},
        "student_notes": ("a note on the student",),
        "recipe": RECIPE,
        "calibration_digest": "ca" * 32,
        "tools": {"numpy": "9.8.7"},
    }
    tensors = [{"name": EMBEDDING, "shape": [64, 32], "format": "q8_0"}]
    tensors += [{"name": name, "shape": [32, 32], "format": _format(name)} for name in ERRORS]
    manifest = Manifest(
        format_version=1,
        name=name,
        model={"family": "llama"},
        lineage=Lineage(**(facts | lineage)),
        parameters=PARAMETERS,
        fell_back=(layer_name(1, "mlp.up_proj"),),
        tensors=tuple(tensors),
        files=tuple(
            FileEntry(path=path, bytes=size, sha256=f"{size:064x}")
            for path, size in (
                ("checkpoint/model-00001-of-00001.safetensors", 80_000_001),
                ("gguf/model.gguf", 12_345_678),
                ("onnx/model.onnx", 234_567),
                ("onnx/model.onnx.data", 11_000_000),
                ("onnx/tokenizer.json", 2_000_000),
            )
        ),
    )
    write_manifest(manifest, out)
    return manifest


def make_quality(noise: float, file_bytes: int, root: Path, windows: int = 6) -> QualityRecord:
    """A bigram model against the table it was disturbed from."""
    student, vocab = random_table(60, 3.0, 0), 60
    model = (student + random_table(vocab, noise, 1)).astype(np.float32)
    tokens = np.random.default_rng(2).integers(0, vocab, (windows, 33))
    reference = ReferenceLogits(root, "student", tokens, lambda: BigramSession(student))
    return measure_quality(BigramSession(model), reference, tokens, file_bytes=file_bytes, parameters=PARAMETERS)


def make_bench(token_ms: float, file_bytes: int, **changes: Any) -> BenchRecord:
    """A bench of invented samples; ``changes`` go to the scenario."""
    rng = np.random.default_rng(round(1000 * token_ms))
    scenario = Scenario(**({"prompt": 100, "generate": 20, "repetitions": 5, "seed": 23} | changes))

    def nanoseconds(scale: float, *shape: int) -> Any:
        return (1e6 * scale * rng.uniform(0.97, 1.03, shape)).astype(int).tolist()

    samples = tuple(
        DepthSamples(
            depth=depth,
            prefill_ns=tuple(nanoseconds(20 * token_ms, scenario.repetitions)),
            token_ns=tuple(map(tuple, nanoseconds(token_ms, scenario.repetitions, scenario.generate))),
        )
        for depth in scenario.depths
    )
    memory = PeakMemory(
        peak_rss_bytes=file_bytes + 61_000_000,
        start_rss_bytes=40_000_000,
        peak_anonymous_bytes=60_000_000,
        peak_file_bytes=file_bytes,
        engine_weights_bytes=file_bytes - 1000,
        engine_kv_cache_bytes=7_000_000,
    )
    result = Result(engine="llama.cpp", engine_version="1.2.3", threads=2, load_ms=321.0, memory=memory, depths=samples)
    state = read_state()
    environment = Environment(machine=read_machine(), before=state, after=state)
    shared = {"build_commit": "", "cpu_info": "a processor", "model_filename": "", "model_type": "", "n_threads": 2}
    shared |= {"model_size": file_bytes, "model_n_params": PARAMETERS, "test_time": "2026-01-02T03:04:05Z"}
    return make_record(shared, file_bytes, scenario, result, environment)


def make_output(out: Path) -> tuple[dict[str, QualityRecord], dict[str, BenchRecord]]:
    """A complete output directory; returns its records by label."""
    make_manifest(out)
    cache, sizes = out.parent / "cache", {"gguf": 12_345_678, "onnx": 11_234_567, "baseline": 40_050_000}
    noises, speeds = {"gguf": 0.4, "onnx": 0.5, "baseline": 0.01}, {"gguf": 5.0, "onnx": 6.0, "baseline": 10.0}
    quality = {label: make_quality(noise, sizes[label], cache) for label, noise in noises.items()}
    latency = {label: make_bench(ms, sizes[label]) for label, ms in speeds.items()}
    for label in sizes:
        save(out / f"measurements/quality-{label}.json", quality[label])
        save(out / f"measurements/latency-{label}.json", latency[label])
    answers = {"student": "one two three", "gguf": "one two four", "onnx": "one two three"}
    save(out / "measurements/samples.json", {"tokens": 8, "samples": [{"prompt": "Count!", "answers": answers}]})
    errors = [{"name": EMBEDDING, "format": "q8_0", "relative_error": 3e-6, "weighted": True}]
    errors += [
        {"name": name, "format": _format(name), "relative_error": error, "weighted": True}
        for name, error in ERRORS.items()
    ]
    save(out / "checkpoint/quantization.json", errors)
    return quality, latency


def save(path: Path, record: object) -> None:
    """Write a record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(record))


def _format(name: str) -> str:
    return "q5_0" if "down_proj" in name else "q4_0"


class Page(HTMLParser):
    """A page taken apart: ``tables`` by id as rows of text, ``texts`` by id, ``visible`` text, tags and links."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self.links: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.visible = ""
        self._open: list[tuple[str, str]] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.links += [values[name] for name in ("src", "href", "srcset", "data", "action", "poster") if name in values]
        self.handlers += [name for name in values if name.startswith("on")]
        if tag in ("meta", "link", "br", "img", "input"):
            return
        self._open.append((tag, values.get("id", "")))
        if tag == "table" and self._open[-1][1]:
            self.tables[self._open[-1][1]] = []
        if tag == "tr" and (table := self._table()) is not None:
            table.append([])
        if tag in ("td", "th") and (table := self._table()) is not None:
            table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self._open]
        if "script" in tags or "style" in tags:
            return
        self.visible += data
        for _, id in self._open:
            if id:
                self.texts[id] = self.texts.get(id, "") + data
        if {"td", "th"} & set(tags) and (table := self._table()) is not None:
            table[-1][-1] += data

    def _table(self) -> list[list[str]] | None:
        return next((self.tables[id] for tag, id in reversed(self._open) if tag == "table" and id), None)

    def row(self, table: str, name: str) -> list[str]:
        """The row of a table whose first cell is ``name``."""
        return next(row for row in self.tables[table] if row[0] == name)

    def figure(self, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Traces and layout that a figure is drawn from."""
        start = re.search(rf'Plotly\.newPlot\(\s*"figure-{name}",\s*', self.source)
        assert start is not None, f"no figure {name}"
        decoder = json.JSONDecoder()
        traces, end = decoder.raw_decode(self.source, start.end())
        layout, _ = decoder.raw_decode(self.source, self.source.index("{", end))
        return traces, layout


def numbers(text: str) -> list[float]:
    """The numbers in a text as typeset: thousands separated by commas, minus signs, ×10ⁿ."""
    plain = text.translate(str.maketrans("−⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "--0123456789")).replace("×10", "e").replace(",", "")
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", plain)]
