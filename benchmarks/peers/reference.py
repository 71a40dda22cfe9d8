"""One float32 GGUF and its log-probabilities on one text: what every file of a comparison is judged against."""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import cached_property
from pathlib import Path
from types import TracebackType

import msgspec
from typing_extensions import Self

from edgepress.benchmarks.peers.gguf_files import tensor_types
from edgepress.benchmarks.peers.judged import Entry, digest
from edgepress.benchmarks.peers.llama_tools import Tools
from edgepress.benchmarks.peers.measured import Run
from edgepress.benchmarks.peers.texts import describe
from edgepress.progress import say


class Reference:
    """The float32 file and its log-probabilities in a folder, made once and used for every judgement.

    The log-probabilities take a gigabyte for 40 chunks of a vocabulary of 49152; they are deleted at the end unless
    ``keep``, and used again by the next run when student, text, protocol and tools are the same.
    """

    def __init__(
        self, work: Path, student: Path, text: Path, tools: Tools, *, chunks: int, context: int, keep: bool = False
    ) -> None:
        self.work, self.student, self.text, self.tools = work, student, text, tools
        self.f32 = work / "f32.gguf"
        self.keep = keep
        self.runs: dict[str, Run] = {}
        self._size = {"chunks": chunks, "context": context}
        self._logits = work / "reference.logits"
        self._record = work / "reference.json"

    def __enter__(self) -> Self:
        key = self.key
        if self._logits.is_file() and self.f32.is_file() and self._record.is_file():
            kept = json.loads(self._record.read_text(encoding="utf-8"))
            if kept["key"] == key:
                say(f"using the reference that is in {self.work}")
                self.runs = msgspec.convert(kept["runs"], dict[str, Run])
                return self
        self._record.unlink(missing_ok=True)
        self.runs = {"convert": self.tools.convert(sys.executable, self.student, self.f32)}
        self.runs["reference"] = self.tools.save_reference(self.f32, self.text, self._logits, **self._size)
        made = {"key": key, "runs": msgspec.to_builtins(self.runs)}
        self._record.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self.keep:
            self._logits.unlink(missing_ok=True)

    def judge(self, path: Path, kind: str, maker: str, method: str, making: list[Run], log: Path) -> Entry:
        """Compare a file with the reference."""
        divergence, _ = self.tools.divergence(path, self._logits, log)
        types = tensor_types(path)
        say(f"{maker} {kind} {method}: mean KLD {divergence.kld_mean:.6f} ± {divergence.kld_se:.6f}")
        return Entry(
            format=kind,
            maker=maker,
            method=method,
            path=path,
            file_bytes=path.stat().st_size,
            types=dict(Counter(types.values())),
            embedding=types["token_embd.weight"],
            making=making,
            divergence=divergence,
        )

    @cached_property
    def key(self) -> str:
        """A hash over student, text, protocol and tools."""
        files = sorted(file for file in self.student.iterdir() if file.is_file())
        stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        facts = [stamps, describe(self.text), self._size, self.tools.about()]
        return digest(facts)
