"""The machine's state is read from files that may be there or not, and never fails."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import msgspec
import psutil
import pytest

from edgepress.runtime.environment import Jetson, read_machine, read_state, usable_cores

CORE = usable_cores()[0]


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_jetson_is_recognised_with_its_power_mode(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\nmore\n",
            "var/lib/nvpmodel/status": "pmode:0001\n",
            "etc/nvpmodel.conf": (
                "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n"
                "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
            ),
        },
    )
    machine = read_machine(tmp_path)
    assert machine.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert machine.jetson == Jetson(l4t="# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic", power_mode="25W")
    assert machine.cpu == "ARM implementer 0x41 part 0xd42"
    (tmp_path / "etc/nvpmodel.conf").unlink()
    assert read_machine(tmp_path).jetson == msgspec.structs.replace(machine.jetson, power_mode="1")


def test_clocks_memory_pressure_and_heat_come_from_the_kernels_files(tmp_path: Path) -> None:
    cpu = f"sys/devices/system/cpu/cpu{CORE}"
    _write(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: AMD EPYC\nmodel name\t: AMD EPYC\nflags\t: fpu hypervisor\n",
            "proc/loadavg": "1.25 0.50 0.10 2/300 4711\n",
            "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 600 kB\nSwapTotal: 500 kB\nSwapFree: 480 kB\nHuge: 3\n",
            "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 total=1\n",
            f"{cpu}/cpufreq/scaling_governor": "schedutil\n",
            f"{cpu}/cpufreq/scaling_cur_freq": "1200000\n",
            f"{cpu}/cpufreq/cpuinfo_max_freq": "3500000\n",
            f"{cpu}/thermal_throttle/core_throttle_count": "7\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "48500\n",
            "sys/class/thermal/thermal_zone1/type": "broken\n",
            "sys/class/thermal/thermal_zone1/temp": "\n",
            "sys/class/dmi/id/sys_vendor": "QEMU\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
        },
    )
    state, machine = read_state(tmp_path), read_machine(tmp_path)
    assert (state.load_1min, state.cpu_wait_seconds, state.mhz, state.throttle_events) == (1.25, 2.5, 1200.0, 7)
    assert state.governors == ("schedutil",)
    assert (state.memory_available_bytes, state.swap_used_bytes) == (600 * 1024, 20 * 1024)
    assert state.temperatures_celsius == {"cpu-thermal": 48.5}
    assert (machine.cpu, machine.max_mhz, machine.memory_total_bytes) == ("AMD EPYC", 3500.0, 1000 * 1024)
    assert (machine.virtual, machine.cpu_quota, machine.jetson) == ("QEMU", 1.5, None)


def test_hardware_monitors_stand_in_where_there_are_no_thermal_zones(tmp_path: Path) -> None:
    _write(tmp_path, {"sys/class/hwmon/hwmon0/name": "k10temp\n", "sys/class/hwmon/hwmon0/temp1_input": "61000\n"})
    assert read_state(tmp_path).temperatures_celsius == {"k10temp": 61.0}


def test_an_empty_file_system_gives_empty_fields_and_no_error(tmp_path: Path) -> None:
    state, machine = read_state(tmp_path), read_machine(tmp_path)
    assert (state.load_1min, state.mhz, state.swap_used_bytes, state.cpu_wait_seconds) == (None, None, None, None)
    assert (state.governors, state.temperatures_celsius) == ((), {})
    assert (machine.board, machine.jetson, machine.cpu_quota, machine.virtual) == (None, None, None, None)


@pytest.mark.parametrize("text", ["", "\n", "max\n", "max 100000\n", "nonsense", "\0\0", "total="])
def test_files_that_make_no_sense_are_read_as_nothing(tmp_path: Path, text: str) -> None:
    names = ("proc/loadavg", "proc/meminfo", "proc/pressure/cpu", "sys/fs/cgroup/cpu.max", "var/lib/nvpmodel/status")
    _write(tmp_path, dict.fromkeys((*names, "etc/nv_tegra_release", "proc/cpuinfo"), text))
    state, machine = read_state(tmp_path), read_machine(tmp_path)
    assert (state.load_1min, state.memory_available_bytes, state.cpu_wait_seconds) == (None, None, None)
    assert machine.cpu_quota is None


def test_this_machine_agrees_with_psutil_and_survives_json() -> None:
    machine, state = read_machine(), read_state()
    assert machine.memory_total_bytes == psutil.virtual_memory().total
    assert machine.logical_cores == len(os.sched_getaffinity(0))
    assert 1 <= machine.physical_cores <= machine.logical_cores
    assert "numpy" in machine.versions
    assert datetime.fromisoformat(state.time).tzinfo is not None
    assert msgspec.json.decode(msgspec.json.encode(machine), type=type(machine)) == machine
