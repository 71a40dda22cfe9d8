"""The command that cuts a smaller start out of a larger model: slice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.cli.app import Json, app, print_json

ModelName = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A STUDENT, or the directory of an encoder (BERT-like, ViT)."),
]
Start = Annotated[str, typer.Option("--start", help="JSON of sizes, or shares of the model: width=0.5,depth=0.5.")]


@app.command(name="slice")
def slice_(
    model: ModelName,
    start: Start,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output directory, a Hugging Face model.")],
    select: Annotated[
        str, typer.Option("--select", help="importance (on calibration inputs) or uniform (evenly spaced).")
    ] = "importance",
    layers: Annotated[str, typer.Option("--layers", help="uniform (first to last) or first.")] = "uniform",
    text: Annotated[
        list[str] | None, typer.Option("--text", help="Calibration text; may be given more than once.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Calibration pictures: .npy, (n, channels, height, width).")
    ] = None,
    json: Json = False,
) -> None:
    """A smaller start out of slices of a larger model, decoder or encoder; without training."""
    from edgepress.compress.distill.smaller import Layers
    from edgepress.pipeline import slice_job
    from edgepress.pipeline.slice import slice_model

    job = slice_job.SliceJob(
        start=slice_job.read_slice_start(start),
        select=slice_job.one_of("--select", select, slice_job.Select),
        layers=slice_job.one_of("--layers", layers, Layers),
        text=tuple(text or ()),
        images=images,
    )
    record = slice_model(model, job, out)
    if json:
        print_json(record)
        return
    sizes = ", ".join(f"{name} {size}" for name, size in record.sizes.items())
    print(f"{out}  {record.parameters:,} parameters of {record.parameters_before:,}")
    print(f"{sizes}; layers {', '.join(map(str, record.layers))} of the source; norms {record.norms}")
