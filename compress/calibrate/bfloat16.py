"""Products in bfloat16, on processors with instructions for them.

oneDNN rounds float32 factors to bfloat16 as it multiplies them; what it sums, and the result, are float32. On
processors with units for whole tiles (AMX on x86, and Arm's) that is three to six times as fast, and adds an error of
about 2⁻⁹ of a factor, which is random. Forward passes over calibration text and the moments of inputs are computed so;
what is solved from them is float64. With dot products alone (AVX-512) oneDNN keeps float32 factors whatever it is
told, so nothing is asked of it there; what may lose more is given to it as halves (``one_dnn``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def has_native_bfloat16() -> bool:
    """Whether this processor has bfloat16 dot products, so that half precision is faster and not slower."""
    return _has_one_of("avx512_bf16", "amx_bf16", "bf16")


def rounds_factors() -> bool:
    """Whether oneDNN multiplies float32 matrices as bfloat16 on this processor, once it is allowed to."""
    import torch

    return _has_one_of("amx_bf16", "bf16") and torch.backends.mkldnn.is_available()


def _has_one_of(*names: str) -> bool:
    import torch

    ask = getattr(torch.cpu, "get_capabilities", dict)  # since torch 2.10
    capabilities: dict[str, object] = ask()
    return any(capabilities.get(name) for name in names)


@contextmanager
def bfloat16_products(wanted: bool = True) -> Iterator[None]:
    """Within it products of float32 matrices on the CPU are of bfloat16 factors, where the processor is faster so.

    Without ``wanted`` nothing is changed: a block around this one keeps its say.
    """
    import torch

    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
    if matmul is None or not (wanted and rounds_factors()):
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
