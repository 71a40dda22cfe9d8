"""``edgepress show``: what a student, an output directory, a model file or a recipe is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgepress.artifact.manifest import MANIFEST_FILE, read_manifest
from edgepress.artifact.spec import ModelSpec
from edgepress.profiles.recipes import RECIPE_NAMES
from edgepress.recipe import load_recipe


def describe(thing: str) -> dict[str, Any]:
    """Facts about a thing, by name.

    Raises:
        InputError: nothing of that name, or damaged.
    """
    path = Path(thing)
    if thing in RECIPE_NAMES or path.suffix in (".yaml", ".yml"):
        return {"recipe": thing, **msgspec.to_builtins(load_recipe(thing))}
    if (path / MANIFEST_FILE).is_file():
        return _output(path)
    if (path / "genai_config.json").is_file():
        return _onnx(path)
    return _student(thing)


def _output(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    formats: dict[str, int] = {}
    for tensor in manifest.tensors:
        formats[tensor["format"]] = formats.get(tensor["format"], 0) + 1
    return {
        "name": manifest.name,
        **_shape(msgspec.convert(manifest.model, ModelSpec)),
        "parameters": manifest.parameters,
        "formats": formats,
        "fell_back": list(manifest.fell_back),
        "student": manifest.lineage.student,
        "student_source": manifest.lineage.student_source,
        "student_notes": list(manifest.lineage.student_notes),
        "files": {entry.path: entry.bytes for entry in manifest.files},
    }


def _onnx(path: Path) -> dict[str, Any]:
    return {"format": "ONNX", "files": {file.name: file.stat().st_size for file in sorted(path.iterdir())}}


def _student(thing: str) -> dict[str, Any]:
    from edgepress.compress.student.open import open_student

    student = open_student(thing)
    stored: dict[str, int] = {}
    for kind in student.stored_types.values():
        stored[kind] = stored.get(kind, 0) + 1
    return {
        "name": student.name,
        "source": student.source,
        **_shape(student.spec),
        "parameters": student.parameters,
        "stored": stored,
        "fp16_bytes": 2 * student.parameters,
        "digest": student.digest(),
        "notes": list(student.notes),
    }


def _shape(spec: ModelSpec) -> dict[str, Any]:
    widths = sorted({layer.ffn for layer in spec.layers})
    heads = sorted({(layer.heads, layer.kv_heads) for layer in spec.layers})
    return {
        "family": spec.family,
        "layers": spec.depth,
        "hidden": spec.hidden,
        "heads": ", ".join(f"{count} ({kv} key-value)" if count else "none" for count, kv in heads),
        "head_dim": spec.head_dim,
        "ffn": ", ".join(str(width) for width in widths),
        "vocabulary": spec.vocab,
        "tied_head": spec.tied,
        "context": spec.context,
        "kv_cache_bytes_per_token_fp16": spec.kv_cache_bytes(1, 2),
    }
