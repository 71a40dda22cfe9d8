"""The machines that speed was measured on, and the state each was in around every run."""

from __future__ import annotations

import msgspec

from edgepress.benchmarks.report.artifacts import Artifact
from edgepress.benchmarks.report.numerals import significant, whole
from edgepress.benchmarks.report.tables import NONE, Row, Table
from edgepress.runtime.environment import Machine, MachineState

Fact = tuple[str, str]


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One machine, and its state before and after each run on it."""

    facts: tuple[Fact, ...]
    states: Table


def machines(artifacts: tuple[Artifact, ...]) -> tuple[MachineFacts, ...]:
    """Distinct machines, in the order of the artifacts."""
    groups: list[tuple[Machine, list[Artifact]]] = []
    for artifact in artifacts:
        if artifact.latency is None:
            continue
        machine = artifact.latency.environment.machine
        mine = next((members for known, members in groups if known == machine), None)
        if mine is None:
            groups.append((machine, [artifact]))
        else:
            mine.append(artifact)
    return tuple(
        MachineFacts(facts=machine_facts(machine), states=_states(members, f"states-{place}"))
        for place, (machine, members) in enumerate(groups)
    )


def machine_facts(machine: Machine) -> tuple[Fact, ...]:
    """What a machine is, as far as it is known."""
    jetson = machine.jetson
    found = (
        ("processor", machine.cpu),
        ("board", machine.board),
        ("Jetson", f"L4T {jetson.l4t or '?'}, power mode {jetson.power_mode or '?'}" if jetson else None),
        ("cores", f"{machine.physical_cores} physical, {machine.logical_cores} logical"),
        ("cores granted", f"{machine.cpu_quota:g}" if machine.cpu_quota else None),
        ("greatest clock", f"{machine.max_mhz:,.0f} MHz" if machine.max_mhz else None),
        ("memory", f"{machine.memory_total_bytes / 1e9:.1f} GB" if machine.memory_total_bytes else None),
        ("kernel", f"{machine.kernel} {machine.architecture}"),
        ("virtual", machine.virtual),
        ("Python", machine.python),
    )
    known = tuple((name, value) for name, value in found if value)
    return (*known, *sorted(machine.versions.items()))


def _states(artifacts: list[Artifact], id: str) -> Table:
    rows = []
    for artifact in artifacts:
        assert artifact.latency is not None, "only measured artifacts have a machine"
        around = artifact.latency.environment
        for when, state in (("before", around.before), ("after", around.after)):
            rows.append(Row(name=f"{artifact.title}, {when}", colour=artifact.colour, cells=_state_cells(state)))
    head = ("run", "UTC", "load average", "governor", "clock, MHz", "free memory, MB", "swap, MB", "throttled", "°C")
    return _without_empty_columns(Table(id=id, head=head, rows=tuple(rows)))


def _without_empty_columns(table: Table) -> Table:
    """Most machines tell only some of it."""
    told = [place for place in range(len(table.head) - 1) if any(row.cells[place] != NONE for row in table.rows)]
    return Table(
        id=table.id,
        head=(table.head[0], *(table.head[place + 1] for place in told)),
        rows=tuple(
            Row(name=row.name, colour=row.colour, cells=tuple(row.cells[place] for place in told)) for row in table.rows
        ),
    )


def _state_cells(state: MachineState) -> tuple[str, ...]:
    hottest = max(state.temperatures_celsius.values(), default=None)
    return (
        state.time.partition(".")[0].replace("T", " "),
        NONE if state.load_1min is None else f"{state.load_1min:.2f}",
        ", ".join(state.governors) or NONE,
        NONE if state.mhz is None else f"{state.mhz:,.0f}",
        NONE if state.memory_available_bytes is None else f"{state.memory_available_bytes / 1e6:,.0f}",
        NONE if state.swap_used_bytes is None else f"{state.swap_used_bytes / 1e6:,.0f}",
        NONE if state.throttle_events is None else whole(state.throttle_events),
        NONE if hottest is None else significant(hottest),
    )
