"""Numbers that settings may take: counts, shares, finite floats, and seeds that every generator holds."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MOST = 1e12  # keeps infinity out
MOST_SEED = 2**63 - 2  # fits 64 bits with a sign, and so does the next

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, le=MOST_SEED)]
Positive = Annotated[float, Meta(gt=0, le=MOST)]
Weight = Annotated[float, Meta(ge=0, le=MOST)]
Share = Annotated[float, Meta(ge=0, le=1)]
