"""The machine a measurement was taken on, and the state it was in: what explains a number that does not repeat.

``Machine`` holds what stays, ``MachineState`` what changes from minute to minute and is read before and after a run.
Everything comes from /proc, /sys and /etc, read without privileges and without starting a program; whatever cannot be
read is None (or empty) and never an error. The readers take the root of the file system, so that they can be pointed
at a copy.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import msgspec

from edgepress.runtime.cores import physical_cores
from edgepress.runtime.system_files import first_line, matching, memory_info, number_in, text_of

_ROOT = Path("/")
_ENGINE_PACKAGES = (
    "llama-cpp-python",
    "onnxruntime",
    "onnxruntime-genai",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
    "transformers",
    "gguf",
    "numpy",
)


class Jetson(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a Jetson board: L4T release line and the name of the power mode."""

    l4t: str | None
    power_mode: str | None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change during a run.

    ``physical_cores`` and ``logical_cores`` count those that this process may use (affinity); ``cpu_quota`` is the
    container's limit in cores; ``virtual`` names the hypervisor or container; ``board`` is the device tree's model.
    """

    cpu: str | None
    physical_cores: int
    logical_cores: int
    cpu_quota: float | None
    max_mhz: float | None
    memory_total_bytes: int | None
    kernel: str
    architecture: str
    virtual: str | None
    board: str | None
    jetson: Jetson | None
    python: str
    versions: dict[str, str]


class MachineState(msgspec.Struct, frozen=True, kw_only=True):
    """What changes. ``governors`` lists the distinct ones; ``mhz`` is the fastest core now; ``load_1min`` the kernel's
    load average; ``throttle_events`` a counter since boot; ``cpu_wait_seconds`` the time since boot during which some
    task was ready to run and found no free core; ``temperatures_celsius`` by the sensor's name.
    """

    time: str
    load_1min: float | None
    cpu_wait_seconds: float | None
    governors: tuple[str, ...]
    mhz: float | None
    memory_available_bytes: int | None
    swap_used_bytes: int | None
    throttle_events: int | None
    temperatures_celsius: dict[str, float]


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """A machine and its state around a run."""

    machine: Machine
    before: MachineState
    after: MachineState


def read_machine(root: Path = _ROOT) -> Machine:
    """Read what stays."""
    cores = usable_cores()
    memory = memory_info(root)
    return Machine(
        cpu=_cpu_name(root),
        physical_cores=physical_cores(),
        logical_cores=len(cores),
        cpu_quota=_cpu_quota(root),
        max_mhz=_greatest_mhz(root, cores, "cpuinfo_max_freq"),
        memory_total_bytes=memory.get("MemTotal"),
        kernel=platform.release(),
        architecture=platform.machine(),
        virtual=_virtual(root),
        board=first_line(root / "proc/device-tree/model"),
        jetson=_jetson(root),
        python=platform.python_version(),
        versions=_versions(),
    )


def read_state(root: Path = _ROOT) -> MachineState:
    """Read what changes."""
    cores, memory = usable_cores(), memory_info(root)
    governors = {first_line(_cpufreq(root, core) / "scaling_governor") for core in cores}
    load = first_line(root / "proc/loadavg")
    swap = (memory["SwapTotal"] - memory["SwapFree"]) if {"SwapTotal", "SwapFree"} <= memory.keys() else None
    return MachineState(
        time=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        load_1min=number_in(load.split()[0]) if load else None,
        cpu_wait_seconds=_cpu_wait_seconds(root),
        governors=tuple(sorted(name for name in governors if name)),
        mhz=_greatest_mhz(root, cores, "scaling_cur_freq"),
        memory_available_bytes=memory.get("MemAvailable"),
        swap_used_bytes=swap,
        throttle_events=_throttle_events(root),
        temperatures_celsius=_temperatures(root),
    )


def usable_cores() -> tuple[int, ...]:
    """Logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _cpu_name(root: Path) -> str | None:
    """x86 names the model; ARM gives implementer and part numbers."""
    fields: dict[str, str] = {}
    for line in (text_of(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if name := fields.get("model name"):
        return name
    if "CPU part" in fields:
        return f"ARM implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return platform.processor() or None


def _cpu_quota(root: Path) -> float | None:
    """Cores that the control group grants; None without a limit."""
    quota, _, period = (first_line(root / "sys/fs/cgroup/cpu.max") or "").partition(" ")
    limit, length = number_in(quota), number_in(period)
    return limit / length if limit and length else None


def _virtual(root: Path) -> str | None:
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    if "hypervisor" in (text_of(root / "proc/cpuinfo") or ""):
        return first_line(root / "sys/class/dmi/id/sys_vendor") or "virtual machine"
    return None


def _jetson(root: Path) -> Jetson | None:
    release = first_line(root / "etc/nv_tegra_release")
    board = first_line(root / "proc/device-tree/model") or ""
    if release is None and "Jetson" not in board:
        return None
    return Jetson(l4t=release, power_mode=_power_mode(root))


def _power_mode(root: Path) -> str | None:
    """The current mode's number from nvpmodel's status file, its name from nvpmodel's configuration."""
    status = first_line(root / "var/lib/nvpmodel/status") or ""
    number = number_in(status.rpartition(":")[2])
    if number is None:
        return None
    for line in (text_of(root / "etc/nvpmodel.conf") or "").splitlines():
        words = dict(word.split("=", 1) for word in line.strip("<> ").split() if "=" in word)
        if "POWER_MODEL" in line and number_in(words.get("ID", "")) == number:
            return words.get("NAME")
    return str(int(number))


def _cpufreq(root: Path, core: int) -> Path:
    return root / f"sys/devices/system/cpu/cpu{core}/cpufreq"


def _greatest_mhz(root: Path, cores: Iterable[int], name: str) -> float | None:
    found = [number_in(first_line(_cpufreq(root, core) / name)) for core in cores]
    return max((khz / 1000 for khz in found if khz is not None), default=None)


def _cpu_wait_seconds(root: Path) -> float | None:
    """The kernel's pressure stall counter, in microseconds at the end of its first line."""
    microseconds = number_in((first_line(root / "proc/pressure/cpu") or "").rpartition("total=")[2])
    return None if microseconds is None else microseconds / 1e6


def _throttle_events(root: Path) -> int | None:
    counters = matching(root, "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")
    counts = [number_in(first_line(counter)) for counter in counters]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None


def _temperatures(root: Path) -> dict[str, float]:
    """Thermal zones where there are any, else the hardware monitors' first sensor each."""
    found: dict[str, float] = {}
    zones = [(zone / "type", zone / "temp") for zone in matching(root, "sys/class/thermal/thermal_zone*")]
    monitors = [(chip / "name", chip / "temp1_input") for chip in matching(root, "sys/class/hwmon/hwmon*")]
    for name, reading in zones or monitors:
        thousandths = number_in(first_line(reading))
        if thousandths is not None:
            found[first_line(name) or reading.parent.name] = thousandths / 1000
    return found


def _versions() -> dict[str, str]:
    found = {}
    for package in _ENGINE_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
