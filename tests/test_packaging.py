"""What is installed is what lies in the repository, and a board gets by without torch."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import edgepress

ROOT = Path(__file__).parents[1]
FOLDERS = ("compress", "export", "runtime", "profiles", "benchmarks")
# Side-by-side scripts, which build other people's tools: not shipped, on purpose.
NOT_SHIPPED = "benchmarks/peers/"


def _shipped(entry: Any, prefix: str) -> set[str]:
    """Paths of all files below an installed package, those that Python makes left out."""
    found: set[str] = set()
    for child in entry.iterdir():
        if child.name == "__pycache__":
            continue
        name = f"{prefix}{child.name}"
        found |= _shipped(child, f"{name}/") if child.is_dir() else {name}
    return {name for name in found if not name.startswith(NOT_SHIPPED)}


def _in_repository(folder: str) -> set[str]:
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {name for path in paths if not (name := path.relative_to(ROOT).as_posix()).startswith(NOT_SHIPPED)}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_of_a_top_level_folder_is_installed(folder: str) -> None:
    wanted = _in_repository(folder)
    assert f"{folder}/__init__.py" in wanted
    assert _shipped(files("edgepress") / folder, f"{folder}/") == wanted


def test_the_packages_own_files_are_installed() -> None:
    source = ROOT / "src" / "edgepress"
    own = {path.name for path in source.iterdir()} - {"__pycache__"}
    assert own >= {"py.typed", *FOLDERS}
    assert {entry.name for entry in files("edgepress").iterdir()} - {"__pycache__"} == own
    for folder in FOLDERS:
        assert (source / folder).is_symlink()
        assert (source / folder).resolve() == ROOT / folder


def test_data_files_are_among_what_is_installed() -> None:
    installed = _shipped(files("edgepress"), "")
    for suffix in (".yaml", ".html", ".css"):
        assert any(name.endswith(suffix) for name in installed), suffix


def _modules() -> list[str]:
    found = pkgutil.walk_packages(edgepress.__path__, "edgepress.")
    return [module.name for module in found if not module.name.startswith("edgepress.benchmarks.peers")]


def test_every_module_imports() -> None:
    names = _modules()
    assert len(names) > 80
    for name in names:
        importlib.import_module(name)


def _imported(*modules: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after importing modules."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_what_a_board_runs_imports_neither_torch_nor_transformers() -> None:
    """Everything but the torch reference of the rooms that a board has."""
    rooms = ("edgepress.artifact", "edgepress.runtime", "edgepress.benchmarks", "edgepress.profiles")
    names = [name for name in _modules() if name.startswith(rooms) and not name.endswith(".torch_reference")]
    assert {"edgepress.runtime.session", "edgepress.artifact.checkpoint", "edgepress.benchmarks.latency"} <= {*names}
    assert not _imported(*names) & {"torch", "transformers", "accelerate"}


def test_the_command_line_starts_without_any_heavy_library() -> None:
    heavy = {
        "torch",
        "transformers",
        "llama_cpp",
        "onnx",
        "onnxruntime",
        "onnxruntime_genai",
        "gguf",
        "plotly",
        "scipy",
    }
    assert not _imported("edgepress.cli") & heavy


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert version("edgepress") == edgepress.__version__
