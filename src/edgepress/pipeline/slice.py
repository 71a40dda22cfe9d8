"""``edgepress slice``: a smaller start out of a larger model, a Hugging Face directory, without training.

Decoders are cut by :mod:`edgepress.compress.distill.weight_selection`, encoders and vision models by
:mod:`edgepress.compress.slices`. The directory is made under a temporary name and renamed: it is whole or not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgepress.artifact.encoder_families import EncoderFamily
from edgepress.artifact.files import atomic_directory, home_path, sha256_file
from edgepress.artifact.spec import ModelSpec
from edgepress.compress.distill.shares import Shares, sizes_from_shares
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.distilled_student import write_model
from edgepress.pipeline.held_shapes import note_refused_exports
from edgepress.pipeline.slice_job import SliceJob, SliceRecord
from edgepress.progress import progress, say
from edgepress.runtime.text import TextCodec

RECORD_FILE = "slice.json"
_WINDOWS, _LENGTH = 32, 256  # of calibration text for a decoder, as in a distillation


def slice_model(model: str, job: SliceJob, out: Path) -> SliceRecord:
    """Cut a model and write the smaller one to ``out``.

    Args:
        model: a directory of an encoder or a vision model, or anything that names a decoder.
        job: what is to be done.
        out: the new directory; an earlier slice there is replaced.

    Raises:
        InputError: the model cannot be cut to this, calibration inputs are missing or do not fit, or ``out`` is
            another's.
    """
    from edgepress.compress.slices.source import encoder_family

    directory = home_path(model)
    _check_out(directory, out)
    family = encoder_family(directory)
    if family is None:
        return _slice_decoder(model, job, out)
    return _slice_encoder(directory, family, job, out)


def _check_out(model: Path, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: exists and is not a directory")
    if out.is_dir() and model.is_dir() and out.samefile(model):
        raise InputError(f"{out}: is the model itself; choose another directory")
    if out.is_dir() and any(out.iterdir()):
        if not (out / RECORD_FILE).is_file():
            raise InputError(f"{out}: is not empty and no earlier slice; choose another directory")
        if _hashes(out) != _recorded(out):
            raise InputError(
                f"{out}: an earlier slice in which something was added or changed; choose another directory"
            )


def _hashes(directory: Path) -> dict[str, str]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != RECORD_FILE)
    return {str(path.relative_to(directory)): sha256_file(path) for path in files}


def _recorded(out: Path) -> dict[str, str] | None:
    try:
        return msgspec.json.decode((out / RECORD_FILE).read_bytes(), type=SliceRecord).files
    except (OSError, msgspec.DecodeError):
        return None


def _slice_encoder(directory: Path, family: EncoderFamily, job: SliceJob, out: Path) -> SliceRecord:
    from edgepress.compress.slices.companions import copy_companions
    from edgepress.compress.slices.shape import encoder_sizes_from_shares, read_shape
    from edgepress.compress.slices.sliced import slice_encoder
    from edgepress.compress.slices.source import open_encoder

    _check_inputs(directory.name, job, images=family.images)
    source = open_encoder(directory, family)
    whole = read_shape(source.config, family, f"{directory}/config.json")
    start = encoder_sizes_from_shares(whole, family, job.start) if isinstance(job.start, Shares) else job.start
    sliced = slice_encoder(
        source, start, _encoder_inputs(directory, source.config, job), layers=job.layers, select=job.select
    )
    record = SliceRecord(
        model=directory.resolve().name,
        architecture=source.architecture,
        select=job.select,
        sizes=sliced.sizes,
        layers=sliced.chosen.layers,
        norms="fitted" if sliced.fitted else "kept",
        parameters=sum(values.numel() for values in sliced.tensors.values()),
        parameters_before=source.parameters,
    )
    with _written(out, record) as working:
        sliced.save(working)
        copy_companions(directory, working, width=sliced.shape.hidden)
    return msgspec.json.decode((out / RECORD_FILE).read_bytes(), type=SliceRecord)


def _encoder_inputs(directory: Path, config: dict[str, Any], job: SliceJob) -> Any:
    from edgepress.compress.slices.inputs import image_inputs, text_inputs

    if job.images is not None:
        return image_inputs(job.images, config)
    return text_inputs(job.text, directory, config) if job.text else None


def _check_inputs(name: str, job: SliceJob, *, images: bool) -> None:
    """Refuse inputs of another kind than the model takes, and importance without any."""
    if images and job.text:
        raise InputError(f"--text: {name} takes pictures; give --images")
    if not images and job.images:
        raise InputError(f"--images: {name} takes text; give --text")
    if job.select == "uniform" or job.text or job.images:
        return
    if images:
        raise InputError(
            "--select importance is measured on pictures: give --images, an .npy of floats (n, channels, height, "
            "width), prepared as the model takes them; noise does not say what matters in pictures. Or --select uniform"
        )
    raise InputError("--select importance is measured on text: give --text; or --select uniform")


def _slice_decoder(model: str, job: SliceJob, out: Path) -> SliceRecord:
    from edgepress.compress.distill.smaller import smaller_size
    from edgepress.compress.distill.weight_selection import SelectedWeights
    from edgepress.compress.student.open import open_student

    source = open_student(model)
    _check_inputs(source.name, job, images=False)
    start = sizes_from_shares(source.spec, job.start) if isinstance(job.start, Shares) else job.start
    size = smaller_size(source, start, job.layers)
    contained = SelectedWeights(source, size)  # refuses what is not, before the model runs over the text
    note_refused_exports(contained)
    statistics = _decoder_statistics(source, job.text) if job.text else None
    student = SelectedWeights(source, size, statistics, by_importance=job.select == "importance")
    tensors = {}
    with progress("slice", len(student.names)) as advance:
        for name in student.names:
            tensors[name] = student.read(name)
            advance(1)
    record = SliceRecord(
        model=source.name,
        architecture=source.spec.family,
        select=job.select,
        sizes=_decoder_sizes(student.spec),
        layers=size.layers,
        norms="kept" if statistics is None else "fitted",
        parameters=sum(values.size for values in tensors.values()),
        parameters_before=source.parameters,
    )
    with _written(out, record) as working:
        write_model(student, tensors, working)
    return msgspec.json.decode((out / RECORD_FILE).read_bytes(), type=SliceRecord)


def _decoder_statistics(source: Student, text: tuple[str, ...]) -> Any:
    from edgepress.compress.distill.statistics_cache import cached_statistics
    from edgepress.compress.distill.text import draw, read_windows
    from edgepress.compress.openmp import brief_waits

    windows = read_windows(TextCodec(source.tokenizer_dir), text, min(_LENGTH, source.spec.context))
    say("statistics of all channels on the text")
    with brief_waits():
        return cached_statistics(source, draw(windows, _WINDOWS).tokens)


def _decoder_sizes(spec: ModelSpec) -> dict[str, int]:
    layer = spec.layers[0]
    return {
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.depth,
        "intermediate_size": layer.ffn,
        "num_attention_heads": layer.heads,
        "num_key_value_heads": layer.kv_heads,
        "head_dim": spec.head_dim,
    }


@contextmanager
def _written(out: Path, record: SliceRecord) -> Iterator[Path]:
    """A directory to write a model into, which gets the record and then takes its name."""
    with atomic_directory(out) as working:
        yield working
        record = msgspec.structs.replace(record, files=_hashes(working))
        (working / RECORD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
