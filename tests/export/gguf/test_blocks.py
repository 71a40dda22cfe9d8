"""Packed bytes against ggml's own quantizer and the decoder of the ``gguf`` package."""

from __future__ import annotations

import numpy as np
import pytest
from ggml_oracle import FORMATS, ggml_dequantize, ggml_quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgepress.artifact.formats import get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.export.gguf.blocks import pack, unpack


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_of_ggml_survive_unpacking_and_packing(name: str) -> None:
    weight = np.random.default_rng(0).normal(size=(9, 768)).astype(np.float32)
    theirs = ggml_quantize(name, weight)
    assert np.array_equal(pack(unpack(name, theirs, 768)), theirs)


@pytest.mark.parametrize("name", FORMATS)
def test_unpacked_bytes_of_ggml_stand_for_the_values_of_the_reference_decoder(name: str) -> None:
    weight = np.random.default_rng(1).normal(size=(5, 512)).astype(np.float32)
    theirs = ggml_quantize(name, weight)
    assert np.array_equal(unpack(name, theirs, 512).dequantize(), ggml_dequantize(name, theirs))


@pytest.mark.parametrize("name", FORMATS)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), blocks=st.integers(1, 5))
@settings(deadline=None, max_examples=25)
def test_any_tensor_decodes_to_its_own_values(name: str, seed: int, rows: int, blocks: int) -> None:
    tensor = _random_tensor(name, np.random.default_rng(seed), rows, blocks)
    decoded = ggml_dequantize(name, pack(tensor))
    assert np.array_equal(_bits(decoded), _bits(tensor.dequantize()))


@pytest.mark.parametrize("name", FORMATS)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), blocks=st.integers(1, 5))
@settings(deadline=None, max_examples=25)
def test_any_bytes_survive_unpacking_and_packing(name: str, seed: int, rows: int, blocks: int) -> None:
    spec = get_format(name)
    data = np.random.default_rng(seed).integers(0, 256, (rows, blocks * spec.block_bytes), dtype=np.uint8)
    assert np.array_equal(pack(unpack(name, data, blocks * spec.block)), data)


@pytest.mark.parametrize("name", FORMATS)
def test_codes_index_the_formats_levels(name: str) -> None:
    codes = unpack(name, ggml_quantize(name, np.eye(256, dtype=np.float32)), 256).codes
    assert codes.max() < 2 ** get_format(name).bits


def _random_tensor(name: str, rng: np.random.Generator, rows: int, blocks: int) -> QuantizedTensor:
    spec = get_format(name)
    columns = blocks * spec.block

    def halves(per_row: int) -> NDArray[np.float16]:
        values = rng.normal(size=(rows, per_row)) * rng.choice([0.0, 1e-7, 1.0, 100.0], (rows, per_row))
        return np.asarray(values, dtype=np.float16)

    codes = rng.integers(0, 2**spec.bits, (rows, columns), dtype=np.uint8)
    if spec.kind == "block":
        return QuantizedTensor(
            format=name, codes=codes, scales=halves(blocks), mins=halves(blocks) if spec.has_min else None
        )
    fine = (rows, columns // spec.sub_block)
    if not spec.has_min:
        lowest, highest = (-128, 127) if spec.bits == 6 else (-32, 31)
        signed = rng.integers(lowest, highest + 1, fine).astype(np.int8)
        return QuantizedTensor(format=name, codes=codes, scales=signed, super_scales=halves(blocks))
    scales, mins = (rng.integers(0, 64, fine, dtype=np.uint8) for _ in range(2))
    return QuantizedTensor(
        format=name, codes=codes, scales=scales, mins=mins, super_scales=halves(blocks), super_mins=halves(blocks)
    )


def _bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    # Zero times a negative level is −0 in both decoders; what counts is the bits.
    return np.ascontiguousarray(values).view(np.uint32)
