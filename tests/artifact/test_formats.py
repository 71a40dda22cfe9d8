"""The table of formats is that of ggml, and of the symmetric grids of TensorRT."""

from __future__ import annotations

import re

import numpy as np
import pytest

from edgepress.artifact.formats import FORMATS, Format, formats_for, get_format
from edgepress.errors import InputError

gguf = pytest.importorskip("gguf")

ALL = list(FORMATS.values())
BLOCKS = [entry for entry in ALL if entry.kind != "float"]
GGML = [entry for entry in ALL if entry.name.upper() in gguf.GGMLQuantizationType.__members__]


@pytest.mark.parametrize("entry", GGML, ids=lambda entry: entry.name)
def test_blocks_have_the_sizes_of_the_gguf_package(entry: Format) -> None:
    kind = gguf.GGMLQuantizationType[entry.name.upper()]
    assert gguf.GGML_QUANT_SIZES[kind] == (entry.block, entry.block_bytes)
    assert entry.bits_per_value == 8 * entry.block_bytes / entry.block


@pytest.mark.parametrize("entry", BLOCKS, ids=lambda entry: entry.name)
def test_there_is_one_level_for_each_code_and_zero_lies_among_them(entry: Format) -> None:
    levels = entry.level_array()
    # E4M3 has two bytes for nothing, and two that are no numbers.
    assert levels.shape == (253 if entry.name == "fp8" else 2**entry.bits,)
    assert np.all(np.diff(levels) > 0)
    assert levels[0] <= 0 < levels[-1]
    assert entry.has_min == (levels[0] == 0)
    assert entry.scale_width(256) in (entry.sub_block, 256)
    assert entry.block % (entry.sub_block or 1) == 0


def test_the_levels_of_iq4_nl_and_iq4_xs_are_the_packages() -> None:
    for name in ("iq4_nl", "iq4_xs"):
        assert get_format(name).levels == tuple(gguf.quants.IQ4_NL.kvalues)


@pytest.mark.parametrize(
    ("width", "fitting"),
    [
        (256, list(FORMATS)),
        (576, [name for name, spec in FORMATS.items() if spec.block < 128]),
        (100, ["f32", "f16", "int8", "fp8"]),
    ],
)
def test_the_formats_of_a_width_are_those_whose_blocks_divide_it(width: int, fitting: list[str]) -> None:
    assert formats_for(width) == fitting


def test_a_tensors_bytes_are_its_blocks() -> None:
    assert get_format("q4_0").tensor_bytes(64 * 96) == 64 * 3 * 18
    assert get_format("q6_K").tensor_bytes(2 * 512) == 2 * 2 * 210
    assert get_format("q3_K").tensor_bytes(2 * 512) == 2 * 2 * 110
    assert get_format("f16").tensor_bytes(7) == 14
    assert get_format("trt_int4_64").tensor_bytes(64 * 128) == 64 * 128 // 2 + 2 * 64 * 2
    assert get_format("trt_int4_128").tensor_bytes(64 * 128) == 64 * 128 // 2 + 64 * 2


def test_int8_takes_a_byte_per_value_and_a_float_per_row() -> None:
    assert get_format("int8").tensor_bytes(6 * 100, rows=6) == 6 * 100 + 6 * 4
    assert get_format("q8_0").tensor_bytes(6 * 32, rows=6) == 6 * 34


def test_an_unknown_format_is_answered_with_the_known_ones() -> None:
    known = re.escape(", ".join(FORMATS))
    with pytest.raises(InputError, match=f"unknown format 'q2_K'; known formats: {known}"):
        get_format("q2_K")
