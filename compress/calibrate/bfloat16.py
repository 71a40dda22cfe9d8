"""Products in bfloat16, on processors with instructions for them.

oneDNN rounds float32 factors to bfloat16 as it multiplies them; what it sums, and the result, are float32. On such
processors that is three to six times as fast, and adds an error of about 2⁻⁹ of a factor, which is random. Forward
passes over calibration text and the moments of inputs are computed so; what is solved from them is float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def has_native_bfloat16() -> bool:
    """Whether this processor has bfloat16 dot products, so that half precision is faster and not slower."""
    import torch

    ask = getattr(torch.cpu, "get_capabilities", dict)  # since torch 2.10
    capabilities: dict[str, object] = ask()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@contextmanager
def bfloat16_products(wanted: bool = True) -> Iterator[None]:
    """Within it products of float32 matrices on the CPU are of bfloat16 factors, where the processor has them.

    Without ``wanted`` nothing is changed: a block around this one keeps its say.
    """
    import torch

    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
    if matmul is None or not (wanted and has_native_bfloat16() and torch.backends.mkldnn.is_available()):
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
