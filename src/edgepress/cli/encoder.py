"""The command that exports encoders and classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.cli.app import Json, app, print_json
from edgepress.errors import InputError


@app.command()
def encoder(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Hugging Face directory of an encoder or classifier (BERT-like, ViT).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output directory.")],
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="A text of lines, or an .npz with the model's inputs.")
    ] = None,
    weights: Annotated[str, typer.Option("--weights", help="int8 (weights and inputs, by Q/DQ) or float.")] = "int8",
    dtype: Annotated[str, typer.Option("--dtype", help="Of everything else: float16 or float32.")] = "float16",
    samples: Annotated[
        int, typer.Option("--samples", min=5, help="Calibration inputs; one in five judges instead.")
    ] = 320,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Largest batch that engines are built for.")] = 32,
    json: Json = False,
) -> None:
    """An encoder or classifier as an INT8 graph for TensorRT and ONNX Runtime, into OUT/tensorrt."""
    from edgepress.artifact.files import atomic_directory, tree_bytes
    from edgepress.export.encoder.write import DTYPES, WEIGHTS, check_calibrated, export_encoder
    from edgepress.pipeline.own_output import check_own_output
    from edgepress.pipeline.stages import Output

    chosen = next((name for name in WEIGHTS if name == weights), None)
    floats = next((name for name in DTYPES if name == dtype), None)
    if chosen is None or floats is None:
        raise InputError(f"--weights {weights} --dtype {dtype}: wanted int8 or float, and float16 or float32")
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; give a Hugging Face directory")
    check_calibrated(calibration, chosen)  # before OUT is made
    final = out / "tensorrt"
    check_own_output("encoder", out, str(directory))
    with Output(out).claim("encoder"), atomic_directory(final) as working:
        record = export_encoder(
            directory, working, calibration=calibration, weights=chosen, dtype=floats, samples=samples, batch=batch
        )
    if json:
        print_json({"out": str(final), "bytes": tree_bytes(final), "export": record})
        return
    print(f"{final}  {tree_bytes(final)} bytes, {len(record.quantized)} linears on int8")
    if not record.fidelity:
        print("nothing says how far its outputs moved: give --calibration to judge it by")
    for name, found in record.fidelity.items():
        print(f"{name}: cosine to float32 {found.cosine_mean:.5f} (least {found.cosine_min:.5f})")
