"""The command group ``engine``: engines built where they will run, and what trtexec measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.cli.app import Json, app, print_json
from edgepress.cli.profiles import ProfileChoice, chosen_profiles
from edgepress.errors import InputError

engine_app = typer.Typer(rich_markup_mode=None)
app.add_typer(engine_app, name="engine", help="TensorRT engines: build, script, read.")

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="A TensorRT export: of 'edgepress export' or 'edgepress encoder'.")
]
LowMemory = Annotated[bool, typer.Option("--low-memory", help="Try fewer kernels; for boards with little memory.")]


@engine_app.command()
def build(
    directory: Directory,
    library: Annotated[
        str | None, typer.Option("--library", help="tensorrt or tensorrt_rtx; default: the first that is installed.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="GPU to build for ahead of time, such as rtx-4090 or sm86 (tensorrt_rtx only)."),
    ] = None,
    profiles: ProfileChoice = None,
    level: Annotated[
        int | None, typer.Option("--level", min=0, max=5, help="Optimization level; default: 3, or 2 in low memory.")
    ] = None,
    low_memory: LowMemory = False,
    workspace_mb: Annotated[
        int | None, typer.Option("--workspace-mb", min=1, help="For the builder; default: what is free.")
    ] = None,
    json: Json = False,
) -> None:
    """Build the engine on this GPU, below DIR/engines; one that fits is not built again."""
    from edgepress.runtime.tensorrt_board import build_here

    built = build_here(
        directory,
        library=library,
        target=target,
        profiles=chosen_profiles(profiles),
        level=level,
        low_memory=low_memory,
        workspace_bytes=None if workspace_mb is None else workspace_mb << 20,
    )
    if json:
        print_json({"path": str(built.path), "reused": built.reused, "engine": built.record})
        return
    what = "there already" if built.reused else f"built in {built.record.build_seconds:.1f} s"
    print(f"{built.path}  {built.record.engine_bytes} bytes, {what}")


@engine_app.command()
def script(
    directory: Directory,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The script to write; default: DIR/build_engine.sh.")
    ] = None,
    profiles: ProfileChoice = None,
    low_memory: LowMemory = False,
) -> None:
    """Write a shell script that builds and times the engine with trtexec, for boards without Python."""
    from edgepress.artifact.files import write_atomically
    from edgepress.runtime.tensorrt_board import read_any_layout
    from edgepress.runtime.trtexec import build_script

    path = out or directory / "build_engine.sh"
    if path.is_dir():
        raise InputError(f"{path}: a directory; name the script to write, such as {path / 'build_engine.sh'}")
    text = build_script(read_any_layout(directory), profiles=chosen_profiles(profiles), low_memory=low_memory)
    write_atomically(path, text)
    path.chmod(0o755)
    print(f"{path}  copy it with the export to the board and run it there, beside model.onnx")


@engine_app.command()
def read(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Times, profiles and messages of trtexec.")],
    json: Json = False,
) -> None:
    """Read what trtexec wrote: --exportTimes, --exportProfile, and its messages."""
    from edgepress.benchmarks.trtexec import read_trtexec
    from edgepress.cli.tables import print_rows

    records = read_trtexec(files)
    if json:
        print_json(records)
        return
    for record in records:
        rows = [("profile", record.name), ("TensorRT", record.tensorrt_version or "not told")]
        if record.passed is False:
            rows.append(("run", "FAILED"))
        if record.compute_ms_p50 is not None:
            samples = len(record.samples_compute_ms)
            rows.append(
                ("compute, median", f"{record.compute_ms_p50:.3f} ms {f'of {samples}' if samples else 'as printed'}")
            )
        if record.tokens_per_s is not None:
            rows.append(("tokens per second", f"{record.tokens_per_s:.1f}"))
        slowest = sorted(record.layers, key=lambda layer: -layer.average_ms)[:3]
        rows += [("slowest layer", f"{layer.name}, {layer.average_ms:.3f} ms") for layer in slowest]
        print_rows(rows)
