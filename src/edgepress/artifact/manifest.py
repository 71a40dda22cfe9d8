"""manifest.json: what an output directory holds and how it came to be.

Deterministic: no dates, no measurements, no machine. Two runs of the same recipe on the same student write the same
manifest, so a difference in it is a difference in the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgepress.artifact.files import sha256_file, write_atomically
from edgepress.artifact.plan import ModelPlan
from edgepress.errors import InputError

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A file below the output directory."""

    path: str
    bytes: int
    sha256: str


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the artifact comes from."""

    student: str
    student_source: str
    student_digest: str
    student_stored_types: dict[str, int]
    student_notes: tuple[str, ...]
    recipe: dict[str, Any]
    calibration_digest: str | None
    tools: dict[str, str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest."""

    format_version: int
    name: str
    model: dict[str, Any]
    lineage: Lineage
    parameters: int
    fell_back: tuple[str, ...]
    tensors: tuple[dict[str, Any], ...]
    files: tuple[FileEntry, ...]


def list_files(root: Path, parts: list[str], without: tuple[str, ...] = ()) -> tuple[FileEntry, ...]:
    """Entries of all files in the named directories below ``root``, sorted by path.

    Those whose paths in their directory begin with an entry of ``without`` are left out.
    """
    found = {
        file
        for directory in (root / part for part in parts)
        for file in directory.rglob("*")
        if file.is_file() and not file.relative_to(directory).as_posix().startswith(without)
    }
    return tuple(
        FileEntry(path=file.relative_to(root).as_posix(), bytes=file.stat().st_size, sha256=sha256_file(file))
        for file in sorted(found)
    )


def build_manifest(
    plan: ModelPlan, lineage: Lineage, fell_back: tuple[str, ...], files: tuple[FileEntry, ...]
) -> Manifest:
    """Put a manifest together."""
    return Manifest(
        format_version=FORMAT_VERSION,
        name=plan.name,
        model=msgspec.to_builtins(plan.spec),
        lineage=lineage,
        parameters=plan.parameters,
        fell_back=fell_back,
        tensors=tuple(msgspec.to_builtins(tensor) for tensor in plan.tensors),
        files=files,
    )


def write_manifest(manifest: Manifest, root: Path) -> None:
    """Write ``manifest.json`` into ``root``."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_atomically(root / MANIFEST_FILE, text + b"\n")


def read_manifest(root: Path) -> Manifest:
    """Read ``manifest.json`` from ``root``.

    Raises:
        InputError: it is missing, damaged, or of a later format version.
    """
    path = root / MANIFEST_FILE
    if not path.is_file():
        raise InputError(f"{root}: no {MANIFEST_FILE} here; give the output directory of 'edgepress run' or 'compress'")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError, OSError) as error:
        raise InputError(f"{path}: not a manifest that this version can read ({error})") from error
    if manifest.format_version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {manifest.format_version} is newer than {FORMAT_VERSION}; update edgepress"
        )
    return manifest


def check_files(root: Path, part: str) -> None:
    """Compare a directory below ``root`` with the manifest, where there is one.

    Raises:
        InputError: a file is missing or is not what the manifest says; names it.
    """
    if not (root / MANIFEST_FILE).is_file():
        return
    for entry in read_manifest(root).files:
        if entry.path.startswith(f"{part}/"):
            path = root / entry.path
            if not path.is_file() or path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
                raise InputError(f"{path}: is not the file that {MANIFEST_FILE} lists; run the recipe again")
