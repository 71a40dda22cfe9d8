"""What a side-by-side run writes down about itself, and how it prints."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from edgepress.progress import say

PACKAGES = ("edgepress", "gguf", "llama-cpp-python", "numpy", "torch", "transformers", "tokenizers")
_ASK_ENGINE = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"


def environment(tools_system_info: str | None) -> dict[str, Any]:
    """Versions, machine, load, and whether the tools, if any took part, and the engine run the same kernels."""
    return _machine() | ({} if tools_system_info is None else _kernels(tools_system_info))


def _machine() -> dict[str, Any]:
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
    }


def _kernels(tools_system_info: str) -> dict[str, Any]:
    asked = subprocess.run([sys.executable, "-c", _ASK_ENGINE], capture_output=True, text=True, check=False)
    engine = asked.stdout.strip()
    same = _features(engine) == _features(tools_system_info)
    if not same:
        say(f"note: the tools and the installed engine were compiled differently:\n{tools_system_info}\n{engine}")
    return {
        "tools_system_info": tools_system_info,
        "engine_system_info": engine,
        "same_kernels": same,
    }


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (heads, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _features(system_info: str) -> set[str]:
    return {part.strip().removeprefix("CPU : ") for part in system_info.split("|") if "=" in part}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
