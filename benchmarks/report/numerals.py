"""Numbers as a person reads them: few digits, the unit beside them, an error that decides how many digits are shown.

Megabytes are 10^6 bytes throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS = "−"


def megabytes(count: float) -> str:
    """``91.7 MB``; more digits after the point for what is small."""
    return f"{count / 1e6:,.{_decimals(count)}f} MB"


def megabytes_column(counts: Sequence[int | None]) -> list[str]:
    """Bytes as MB with as many decimals in every cell as the greatest needs; a dash for None."""
    decimals = _decimals(max((count for count in counts if count is not None), default=0))
    return ["–" if count is None else f"{count / 1e6:,.{decimals}f}" for count in counts]


def _decimals(count: float) -> int:
    """Decimals of a number of megabytes."""
    return 1 if count >= 1e7 else 2 if count >= 1e6 else 3


def whole(count: int) -> str:
    """``98,362,432``."""
    return f"{count:,}"


def significant(value: float, digits: int = 3) -> str:
    """A number with at least that many significant digits, never in exponent notation above 10^-5."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-5:
        return _with_exponent(value, digits)
    text = f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return text.replace("-", MINUS)


def plus_minus(value: float, error: float, scale: float = 1.0) -> str:
    """``0.1160 ± 0.0042``: the error to two significant digits, the value to as many decimals.

    Args:
        value, error: a mean and its standard error.
        scale: both are multiplied by it, 100 for percent.
    """
    value, error = value * scale, error * scale
    if not math.isfinite(error) or error == 0:
        return significant(value, 4)
    if max(abs(value), error) < 1e-4:
        return f"{_with_exponent(value, 3)} ± {_with_exponent(error, 2)}"
    decimals = min(7, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}".replace("-", MINUS)


def change(ratio: float, error: float) -> str:
    """A ratio's distance from one, in percent: ``+9.5 ± 0.4 %``."""
    text = plus_minus(ratio - 1, error, 100)
    return f"{text if text.startswith(MINUS) else '+' + text} %"


def rate(tokens_per_s: float) -> str:
    """Tokens per second, without the unit."""
    decimals = 0 if tokens_per_s >= 1000 else 1 if tokens_per_s >= 10 else 2
    return f"{tokens_per_s:,.{decimals}f}"


def milliseconds(value: float) -> str:
    """Milliseconds, without the unit."""
    decimals = 0 if value >= 1000 else 1 if value >= 100 else 2
    return f"{value:,.{decimals}f}"


def interval(low: float | None, high: float | None) -> str:
    """``104 – 109``, or a dash where one repetition gives none."""
    return "–" if low is None or high is None else f"{rate(low)} – {rate(high)}"


def join_words(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def _with_exponent(value: float, digits: int) -> str:
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}×10{raised}".replace("-", MINUS)
