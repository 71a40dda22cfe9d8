"""What the steps before quantize made of the model, and what each of them lost, as rows of text."""

from __future__ import annotations

from edgepress.benchmarks.report.numerals import significant, whole
from edgepress.benchmarks.report.tables import NONE, Row, Table
from edgepress.benchmarks.shape_record import ShapeRecord, StageLoss

_HEAD = ("step", "parameters", "of the student's", "KLD behind the removal", "KLD behind the step")


def stage_table(record: ShapeRecord | None) -> Table | None:
    """A row for the student and one for each step; None where there were none."""
    if record is None or not record.stages:
        return None
    start = Row(name="student", cells=(_millions(record.parameters), "100 %", NONE, NONE))
    return Table(id="stages", head=_HEAD, rows=(start, *(_row(stage, record.parameters) for stage in record.stages)))


def stage_words(record: ShapeRecord | None) -> str:
    """How the table's divergences were measured; empty where none was."""
    if record is None or not record.tokens:
        return ""
    trimmed = any(stage.step == "trim_vocabulary" for stage in record.stages)
    reference = "the student with the smaller vocabulary" if trimmed else "the student"
    return (
        f"Divergences in nats per token from {reference}, in float32 by torch, on {whole(record.tokens)} tokens of the "
        "evaluation text, of all steps so far: when something has been removed, and when the step has made up for it"
    )


def _row(stage: StageLoss, parameters: int) -> Row:
    share = f"{100 * stage.parameters / parameters:.1f} %"
    losses = [NONE if kld is None else significant(kld) for kld in (stage.removed_kld, stage.kld)]
    return Row(name=stage.step, cells=(_millions(stage.parameters), share, *losses))


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"
