"""Float32 products by oneDNN, where torch would take MKL.

On AMD processors MKL keeps to older instructions and takes twice the time. torch reaches oneDNN for plain float32
tensors by an operator of its compiler's, which has no backward pass; where it is missing everything stays as it is. So
it does on Intel's processors, where MKL is as fast, and twice as fast with transposed factors.

Where the processor has instructions for bfloat16, linear layers may be given halves: twice as fast with dot products
alone (``bfloat16``), and what comes out is rounded to 2⁻⁹ of itself as well. That is for streams, which sum such
results up in float32, and not for moments.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from edgepress.compress.calibrate.bfloat16 import has_native_bfloat16


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return False


_WANTED = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available() and not _is_intel()
_OPERATOR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _WANTED else None


class OneDnnLinears(TorchFunctionMode):
    """While it is entered, and no gradients are asked for, linear layers are oneDNN's."""

    def __init__(self, *, half: bool = False) -> None:
        """``half``: of bfloat16 factors and results, where that is faster."""
        super().__init__()
        self._linear = half_linear if half and has_native_bfloat16() else linear

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called by torch in place of its functions."""
        if func is torch.nn.functional.linear and not kwargs and not torch.is_grad_enabled():
            return self._linear(*args)
        return func(*args, **(kwargs or {}))


def linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """inputs · weightᵀ + bias; has no gradients.

    Args:
        inputs: (…, columns); what is not float32 on the CPU is left to torch, as is all under autocast.
        weight: (rows, columns).
        bias: (rows,).
    """
    plain = inputs.dtype == torch.float32 and inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if _OPERATOR is None or not plain:
        return torch.nn.functional.linear(inputs, weight, bias)
    result: torch.Tensor = _OPERATOR(inputs, weight, bias, "none", [], "")
    return result


def half_linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The same as float32, of factors and with a result that are rounded to bfloat16; the bias is not."""
    plain = inputs.dtype == torch.float32 and inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not plain:
        return torch.nn.functional.linear(inputs, weight, bias)
    result = torch.nn.functional.linear(inputs.bfloat16(), weight.bfloat16()).float()
    return result if bias is None else result.add_(bias)
