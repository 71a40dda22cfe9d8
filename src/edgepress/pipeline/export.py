"""``edgepress export``: a checkpoint to files that engines load, through the parity gate."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgepress.artifact.checkpoint import Checkpoint, is_checkpoint
from edgepress.artifact.manifest import check_files
from edgepress.artifact.tensorrt_layout import ADDED_LATER, DEFAULTS, TensorrtOptions
from edgepress.errors import InputError, ParityError
from edgepress.export.parity import ParityReference, check_logits, parity_reference
from edgepress.pipeline.owner import Command
from edgepress.pipeline.stages import Output, stage_key
from edgepress.pipeline.targets import check_gpus, predict_files
from edgepress.progress import say
from edgepress.recipe import ExportTarget
from edgepress.runtime.locate import ModelFile


def export(artifact: Path, targets: tuple[ExportTarget, ...], out: Path, options: TensorrtOptions = DEFAULTS) -> None:
    """``edgepress export``: an existing checkpoint to files.

    Raises:
        InputError: no checkpoint there, a target that cannot hold it, or a GPU that cannot compute with it.
    """
    if options != DEFAULTS and "tensorrt" not in targets:
        raise InputError("GPUs, profiles and limits are those of TensorRT engines; add --to tensorrt")
    checkpoint = checkpoint_of(artifact)
    for target in targets:
        predict_files(checkpoint.plan(), target, options)
    check_gpus(checkpoint.plan(), options.targets)
    output = Output(out)
    with output.claim(exporter(checkpoint, out)):
        export_targets(checkpoint, targets, output, checkpoint.digest(), options)


def checkpoint_of(artifact: Path) -> Checkpoint:
    """The checkpoint in what compress or run wrote, or the one that is named itself.

    Raises:
        InputError: there is none, or its files are not what was written.
    """
    directory = artifact if is_checkpoint(artifact) else artifact / "checkpoint"
    if not is_checkpoint(directory):
        raise InputError(f"{artifact}: no checkpoint here; give the output of 'edgepress compress' or 'edgepress run'")
    check_files(artifact, "checkpoint")
    return Checkpoint(directory)


def exporter(checkpoint: Checkpoint, out: Path) -> Command:
    """Whom an export belongs to: a checkpoint's own directory takes it, that of another one does not."""
    return "run" if checkpoint.directory.resolve().parent == out.resolve() else "export"


def export_targets(
    checkpoint: Checkpoint,
    targets: tuple[ExportTarget, ...],
    output: Output,
    checkpoint_key: str,
    options: TensorrtOptions = DEFAULTS,
) -> None:
    """Export a checkpoint to each target, through the parity gate; TensorRT engines for their targets behind it."""
    capabilities = check_gpus(checkpoint.plan(), options.targets if "tensorrt" in targets else ())
    reference: list[ParityReference] = []
    for target in targets:

        def make(directory: Path, target: ExportTarget = target) -> None:
            model = _export(checkpoint, target, directory, options)
            _check_size(checkpoint, target, directory, options)
            if not reference:
                reference.append(parity_reference(checkpoint))
            result = check_logits(model, checkpoint, reference[0])
            say(f"{target}: parity in {result.engine}: KLD {result.kld_mean:.2e} (bound {result.bound:g})")

        # GPUs are not in the key: their engines come behind the export and go on standing beside others.
        asked = [2, msgspec.structs.replace(options, targets=())] if target == "tensorrt" else [1]
        key = stage_key("export", asked[0], target, checkpoint_key, *asked[1:])
        added = ADDED_LATER if target == "tensorrt" else ()
        made = output.run(target, key, make, added=added)
        if target == "tensorrt":
            _build_engines(made, capabilities)


def _build_engines(directory: Path, capabilities: tuple[str, ...]) -> None:
    from edgepress.export.tensorrt.engine import build_engine

    for capability in capabilities:
        build_engine(directory, capability)


def _export(checkpoint: Checkpoint, target: ExportTarget, directory: Path, options: TensorrtOptions) -> ModelFile:
    """Write one target and compare its integers with the checkpoint's."""
    if target == "gguf":
        from edgepress.export.gguf.tokenizer.check import check_tokenizer
        from edgepress.export.gguf.verify import verify_gguf
        from edgepress.export.gguf.writer import export_gguf

        path = directory / "model.gguf"
        export_gguf(checkpoint, path)
        verify_gguf(path, checkpoint)
        check_tokenizer(path, checkpoint.tokenizer_dir)
        return ModelFile(engine="llama.cpp", path=path)
    if target == "tensorrt":
        from edgepress.export.tensorrt.verify import verify_tensorrt
        from edgepress.export.tensorrt.writer import export_tensorrt

        export_tensorrt(checkpoint, directory, options)
        verify_tensorrt(directory, checkpoint)
        return ModelFile(engine="onnxruntime", path=directory)
    from edgepress.export.onnx.verify import verify_onnx
    from edgepress.export.onnx.writer import export_onnx

    export_onnx(checkpoint, directory)
    verify_onnx(directory, checkpoint)
    return ModelFile(engine="onnxruntime", path=directory)


def _check_size(checkpoint: Checkpoint, target: ExportTarget, directory: Path, options: TensorrtOptions) -> None:
    """The plan promised exact sizes; hold it to that."""
    for path, size in predict_files(checkpoint.plan(), target, options).items():
        written = (directory / path.removeprefix(f"{target}/")).stat().st_size
        if written != size:
            raise ParityError(f"{path}: {written} bytes written, {size} predicted; please report this")
