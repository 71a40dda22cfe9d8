"""Facts of the NVIDIA GPU, asked of the driver itself (libcuda), so that reading them needs no package.

None where there is no driver or no GPU. On Jetson the GPU has no memory of its own: what is free is what Linux has.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import msgspec

from edgepress.runtime.system_files import first_line, memory_info

_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18  # CUdevice_attribute
_NAME_BYTES = 256


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """The first GPU. ``capability`` is like ``sm87``; ``cuda`` the newest CUDA that the driver takes, like ``12.6``;
    ``integrated`` means that it shares memory with the processor.
    """

    name: str
    capability: str
    cuda: str
    integrated: bool
    total_bytes: int


def read_gpu() -> Gpu | None:
    """Ask the driver."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    device, count, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    name, total = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    driver.cuDeviceGetName(name, _NAME_BYTES, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
        return value.value

    return Gpu(
        name=name.value.decode(errors="replace"),
        capability=f"sm{attribute(_MAJOR)}{attribute(_MINOR)}",
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
        integrated=bool(attribute(_INTEGRATED)),
        total_bytes=total.value,
    )


def free_gpu_bytes(gpu: Gpu | None, root: Path = Path("/")) -> int | None:
    """Memory that an engine can get now; None where nothing tells.

    On a shared memory that is what Linux can give without swapping: NvMap neither swaps nor waits for page cache.
    """
    if gpu is None or gpu.integrated:
        return memory_info(root).get("MemAvailable")
    driver = ctypes.CDLL(_LIBRARY)
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0):
        return None
    try:
        driver.cuCtxPushCurrent_v2(context)
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        return None if failed else free.value
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(0)


def module_part_number(root: Path = Path("/")) -> str | None:
    """The Jetson module's part number, like ``p3767-0003``, out of the device tree; None elsewhere."""
    compatible = first_line(root / "proc/device-tree/compatible") or ""
    parts = [name.removeprefix("nvidia,") for name in compatible.split("\0") if name.startswith("nvidia,p")]
    if not parts:
        return None
    return parts[0].rpartition("+")[2]
