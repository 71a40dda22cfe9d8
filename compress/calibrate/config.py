"""The ``calibration`` section of a recipe."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgepress.compress.bounds import Count, Seed


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the calibration text comes from.

    self      text that the student writes itself, in its chat template: needs no data
    files     plain-text files; with ``self`` too, half of the samples come from each
    samples   windows of ``length`` tokens
    seed      of the sampling, and of the choice of windows from long files
    """

    self_generated: bool = msgspec.field(name="self", default=True)
    files: tuple[str, ...] = ()
    samples: Count = 128
    length: Annotated[int, msgspec.Meta(ge=8)] = 512
    seed: Seed = 0
