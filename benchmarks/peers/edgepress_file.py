"""A GGUF file by edgepress's own command line, each command a measured process."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from edgepress.benchmarks.peers.measured import Run, Word, run_measured
from edgepress.errors import InputError


def calibration_section(text: Path, samples: int, length: int, seed: int) -> dict[str, Any]:
    """A recipe's calibration on a file alone."""
    return {"self": False, "files": [str(text)], "samples": samples, "length": length, "seed": seed}


def compress_and_export(
    student: Path, calibration: dict[str, Any], step: dict[str, Any], folder: Path
) -> tuple[Path, list[Run]]:
    """Compress a student with one quantize step and export it; the recipe is written beside the result.

    The folder is emptied first and holds the cache: what an earlier run left would make this one look fast.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    recipe = {"calibration": calibration, "compress": [step], "export": ["gguf"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    place = {"EDGEPRESS_CACHE": str(folder / "cache")}
    tool = Path(sys.executable).with_name("edgepress")
    compressed, exported = folder / "compressed", folder / "exported"
    compress: list[Word] = [tool, "compress", student, "--recipe", folder / "recipe.yaml", "-o", compressed]
    export: list[Word] = [tool, "export", compressed, "--to", "gguf", "-o", exported]
    making = [
        run_measured(compress, folder / "compress.log", place),
        run_measured(export, folder / "export.log", place),
    ]
    return the_gguf_file(exported, "edgepress export"), making


def the_gguf_file(folder: Path, maker: str) -> Path:
    """The one GGUF file below a folder.

    Raises:
        InputError: there is none, or more than one.
    """
    files = sorted(folder.rglob("*.gguf"))
    if len(files) != 1:
        raise InputError(f"{folder}: wanted one .gguf file from {maker}, found {len(files)}")
    return files[0]
