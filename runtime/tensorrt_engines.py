"""The engines below an export, and the one that can run here.

Two kinds of ``engine.json``: those built on the board have a whole
:class:`~edgepress.runtime.tensorrt_place.EngineKey`; those built ahead of time by TensorRT-RTX name their compute
capability.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgepress.artifact.files import sha256_file
from edgepress.artifact.tensorrt_layout import Profiles
from edgepress.errors import InputError
from edgepress.runtime.cuda_device import Gpu
from edgepress.runtime.tensorrt_place import EngineKey, Place, why_not_here

ENGINES_FOLDER, ENGINE_FILE, RECORD_FILE = "engines", "model.engine", "engine.json"


class FoundEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's folder, where it was made for, and the graph that it was made of. A decoder's has ``profiles``."""

    folder: Path
    place: Place
    graph_sha256: str
    data_sha256: str
    profiles: Profiles | None

    @property
    def file(self) -> Path:
        """The engine."""
        return self.folder / ENGINE_FILE


class _Board(msgspec.Struct, frozen=True):
    key: EngineKey
    profiles: Profiles | None


class _Ahead(msgspec.Struct, frozen=True):
    builder: str
    version: str
    compute_capability: str
    graph_sha256: str
    data_sha256: str
    profiles: Profiles


def find_engines(directory: Path) -> list[FoundEngine]:
    """All engines below an export, those built last first, without unfinished ones and what cannot be read."""
    records = sorted(
        (directory / ENGINES_FOLDER).glob(f"[!.]*/{RECORD_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    found = [_read(record) for record in records if (record.parent / ENGINE_FILE).is_file()]
    return [engine for engine in found if engine is not None]


def engine_for(directory: Path, gpu: Gpu | None, versions: dict[str, str]) -> FoundEngine:
    """The engine of an export that runs here.

    Args:
        directory: the export.
        gpu: what is here.
        versions: of the installed libraries, by module name.

    Raises:
        InputError: none does; says why the last one built does not, and what to do.
    """
    reasons = []
    for engine in find_engines(directory):
        reason = why_not(engine, gpu, versions) or _of_another_export(engine, directory)
        if reason is None:
            return engine
        reasons.append(f"{engine.folder.name}: {reason}")
    why = reasons[0] if reasons else "none was built"
    raise InputError(f"{directory}: no engine that runs here ({why}); run on this board: edgepress engine build")


def why_not(engine: FoundEngine, gpu: Gpu | None, versions: dict[str, str]) -> str | None:
    """Why an engine cannot run here; None when it can."""
    library = engine.place.builder
    if gpu is not None and library not in versions:
        extra = library.replace("_", "-")
        return f"{library} is not installed, pip install 'edgepress[{extra}]'"
    return why_not_here(engine.place, gpu, versions.get(library, ""))


def _read(record: Path) -> FoundEngine | None:
    content = record.read_bytes()
    try:
        board = msgspec.json.decode(content, type=_Board)
        key = board.key
        return FoundEngine(
            folder=record.parent,
            place=key.place,
            graph_sha256=key.graph_sha256,
            data_sha256=key.data_sha256,
            profiles=board.profiles,
        )
    except msgspec.MsgspecError:
        pass
    try:
        ahead = msgspec.json.decode(content, type=_Ahead)
    except msgspec.MsgspecError:
        return None
    place = Place(
        builder=ahead.builder,
        version=ahead.version,
        cuda=None,
        capability=ahead.compute_capability,
        gpu=None,
        module=None,
        power_mode=None,
    )
    return FoundEngine(
        folder=record.parent,
        place=place,
        graph_sha256=ahead.graph_sha256,
        data_sha256=ahead.data_sha256,
        profiles=ahead.profiles,
    )


def _of_another_export(engine: FoundEngine, directory: Path) -> str | None:
    """Whether the graph or its weights have changed since the engine was built; files older than it are not read."""
    built = (engine.folder / RECORD_FILE).stat().st_mtime
    for name, wanted in (("model.onnx", engine.graph_sha256), ("model.onnx.data", engine.data_sha256)):
        file = directory / name
        if file.is_file() and file.stat().st_mtime > built and sha256_file(file) != wanted:
            return f"{name} has changed since it was built"
    return None
