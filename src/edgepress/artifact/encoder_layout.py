"""encoder.json: what a program must know of an exported encoder to build engines from it and to run it.

Shapes have numbers and the names ``batch`` and ``sequence``; a profile gives the least, usual and greatest of each.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgepress.errors import InputError

ENCODER_FILE = "encoder.json"
FORMAT_VERSION = 1

Range = tuple[int, int, int]
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class EncoderLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs with their shapes, outputs, and ranges by profile and axis."""

    format_version: int = FORMAT_VERSION
    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    profiles: dict[str, dict[str, Range]]

    def shapes(self, profile: str) -> dict[str, Shapes]:
        """Least, usual and greatest shape of every input in a profile."""
        ranges = self.profiles[profile]

        def at(shape: tuple[int | str, ...], point: int) -> tuple[int, ...]:
            return tuple(ranges[size][point] if isinstance(size, str) else size for size in shape)

        return {name: (at(shape, 0), at(shape, 1), at(shape, 2)) for name, shape in self.inputs.items()}


def is_encoder(directory: Path) -> bool:
    """Whether a directory holds an exported encoder."""
    return (directory / ENCODER_FILE).is_file()


def read_encoder_layout(directory: Path) -> EncoderLayout:
    """The layout of an exported encoder.

    Raises:
        InputError: no file there, or not one of this version.
    """
    path = directory / ENCODER_FILE
    try:
        layout = msgspec.json.decode(path.read_bytes(), type=EncoderLayout)
        for name in layout.profiles:
            layout.shapes(name)
    except (OSError, msgspec.MsgspecError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as the description of an encoder's export ({error})") from error
    if layout.format_version != FORMAT_VERSION:
        raise InputError(f"{path}: format version {layout.format_version}, this edgepress reads {FORMAT_VERSION}")
    return layout
