"""What formats cost a device: measuring it for a student's shapes, and reading what was measured for a recipe.

The record is a file, since the device that was measured and the machine that compresses are seldom the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgepress.artifact.families import EMBEDDING, HEAD, is_matrix
from edgepress.artifact.formats import FORMATS, get_format
from edgepress.artifact.ggml_types import GGML_TYPES
from edgepress.benchmarks.cost_records import COSTS_VERSION, CostsRecord, MatrixShape
from edgepress.benchmarks.costs import Maker, measure_costs
from edgepress.compress.quantize.assign import assign_formats, free_choices
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.search.limits import Limit, time_limit
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.budget import USUAL, smallest_formats
from edgepress.recipe import ExportTarget

ENGINES: dict[ExportTarget, str] = {"gguf": "llama.cpp", "onnx": "onnxruntime", "tensorrt": "onnxruntime"}


def measure_student_costs(
    student: Student, engine: str, formats: Sequence[str], *, threads: int | None, repetitions: int
) -> CostsRecord:
    """Measure the student's shapes on this machine; all formats of the engine that fit one, where none are named.

    Raises:
        InputError: an unknown engine or format, or one that fits no matrix.
        MissingExtraError: the engine is not installed.
    """
    make, held, fits = _engine(engine)
    shapes = matrix_shapes(student)
    for name in formats:
        if get_format(name).name not in held:
            raise InputError(f"{engine} has no format {name}; it has {', '.join(held)}")
    fitting = [name for name in held if any(fits(name, shape.columns) for shape in shapes)]
    return measure_costs(
        engine, make, student.name, shapes, formats or fitting, fits, threads=threads, repetitions=repetitions
    )


def _engine(name: str) -> tuple[Maker, list[str], Callable[[str, int], bool]]:
    """What makes an engine's products, the formats that it has, and whether a format holds rows of that many values."""
    if name == "llama.cpp":
        from edgepress.runtime.ggml_product import GgmlProduct

        types = {entry.name.upper() for entry in GGML_TYPES.values()}
        held = [format for format in FORMATS if format.upper() in types]
        return GgmlProduct, held, lambda format, columns: get_format(format).fits(columns)
    if name == "onnxruntime":
        from edgepress.export.onnx.matmulnbits import container_block
        from edgepress.pipeline.onnx_products import FORMATS as HELD
        from edgepress.pipeline.onnx_products import onnx_product

        return onnx_product, list(HELD), lambda format, columns: columns % container_block(format) == 0
    raise InputError(f"unknown engine {name!r}; costs are measured in {' or '.join(ENGINES.values())}")


def matrix_shapes(student: Student) -> tuple[MatrixShape, ...]:
    """The distinct shapes of the matrices that a token is multiplied with, in file order."""
    counts: dict[tuple[int, int], list[str]] = {}
    for name in multiplied(student):
        rows, columns = student.shape(name)
        counts.setdefault((rows, columns), []).append(name)
    return tuple(
        MatrixShape(
            rows=rows, columns=columns, count=len(names), per_token=any(name not in (EMBEDDING, HEAD) for name in names)
        )
        for (rows, columns), names in counts.items()
    )


def multiplied(student: Student) -> tuple[str, ...]:
    """The matrices that a token is multiplied with: all but an embedding that has a head beside it."""
    names = [name for name in student.names if is_matrix(name)]
    return tuple(name for name in names if name != EMBEDDING or HEAD not in names)


def read_costs(path: Path) -> CostsRecord:
    """A record written by ``edgepress costs``.

    Raises:
        InputError: not such a record, of another version, or with times that are none.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=CostsRecord)
    except OSError as error:
        raise InputError(f"costs: {path}: cannot be read ({error.strerror or error})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"costs: {path}: not a record of 'edgepress costs' ({error})") from error
    if record.version != COSTS_VERSION:
        raise InputError(f"costs: {path}: version {record.version}, wanted {COSTS_VERSION}; measure again")
    for cost in record.costs:
        if not (math.isfinite(cost.decode_ms) and cost.decode_ms > 0):
            raise InputError(
                f"costs: {path}: {cost.decode_ms} ms for {cost.rows} × {cost.columns} in {cost.format} is no time"
            )
    return record


@dataclass(frozen=True)
class _Times:
    """Milliseconds of a product at a decoded token, by rows, columns and format, and the file that they come from."""

    path: str
    decode_ms: Mapping[tuple[int, int, str], float]

    def of(self, name: str, shape: tuple[int, ...], format: str, free: bool) -> float:
        """Of one matrix; ``free`` when its format is to be chosen."""
        rows, columns = shape
        if (rows, columns, format) in self.decode_ms:
            return self.decode_ms[rows, columns, format]
        instead = "leave the format out of 'choices'" if free else "give the matrix another in 'formats'"
        raise InputError(
            f"costs: {self.path} has no time for {name}, {rows} × {columns} in {format}; measure it on the device "
            f"with 'edgepress costs', --formats {format}, or {instead}"
        )


def _times_in(path: str, target: ExportTarget) -> _Times:
    record = read_costs(Path(path))
    if record.engine != ENGINES[target]:
        raise InputError(
            f"costs: {path} was measured in {record.engine}, and the first export, {target}, runs in "
            f"{ENGINES[target]}; measure there with --engine {ENGINES[target]}"
        )
    return _Times(path, {(cost.rows, cost.columns, cost.format): cost.decode_ms for cost in record.costs})


def token_time_limit(student: Student, step: QuantizeStep, target: ExportTarget) -> Limit | None:
    """The bound on the predicted time of a decoded token for the matrices that are free; None without ``target_ms``.

    Those that the step fixes take their part first.

    Raises:
        InputError: the record is of another engine, lacks a shape or a format, or no choice is fast enough.
    """
    if step.target_ms is None or step.costs is None:
        return None
    if step.activations != "float":
        raise InputError(f"target_ms: costs are those of float activations, and activations is {step.activations}")
    times = _times_in(step.costs, target)
    used, free = set(multiplied(student)), free_choices(student, step, USUAL[target])
    fixed = assign_formats(student, step, smallest_formats(student, step, target))

    def cost(name: str, format: str) -> float:
        return times.of(name, student.shape(name), format, name in free) if name in used else 0.0

    others = sum(
        cost(tensor.name, tensor.format)
        for tensor in fixed.tensors
        if is_matrix(tensor.name) and tensor.name not in free
    )
    table = {name: {format: cost(name, format) for format in formats} for name, formats in free.items()}
    return time_limit(table, step.target_ms, others)
