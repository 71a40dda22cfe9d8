"""What TensorRT's builder and runtime have in common, where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorrt_rtx
from standard_graphs import checkpoint, exported
from tiny_models import make_model_dir

from edgepress.artifact.tensorrt_layout import read_layout
from edgepress.errors import EdgepressError
from edgepress.runtime.tensorrt_builder import Build, error_logger, started


def test_a_library_that_cannot_start_is_one_line_with_its_reason() -> None:
    """What the bindings of TensorRT 10.3, 10.13 and 10.16 raise where CUDA cannot be initialised."""

    def no_builder(_: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    logger = error_logger(tensorrt_rtx)
    with pytest.raises(EdgepressError, match=r"tensorrt_rtx .* cannot start here: .*nullptr; is the NVIDIA driver new"):
        started(tensorrt_rtx, no_builder, logger)
    logger.log(tensorrt_rtx.ILogger.ERROR, "CUDA initialization\nfailure with error: 35")
    with pytest.raises(EdgepressError, match=r"cannot start here: CUDA initialization failure with error: 35$"):
        started(tensorrt_rtx, no_builder, logger)


def test_float32_products_keep_their_factors(tmp_path: Path) -> None:
    """TF32, which rounds them to 10 bits, is on in a new configuration."""
    out = exported(checkpoint(make_model_dir("llama", tmp_path / "model"), tmp_path, "f32", "f32"), tmp_path)
    before = list[bool]()
    build = Build(
        tensorrt_rtx,
        out / "model.onnx",
        read_layout(out).settled("tensorrt_rtx"),
        lambda config: before.append(config.get_flag(tensorrt_rtx.BuilderFlag.TF32)),
    )
    assert before == [False]
    assert not build.config.get_flag(tensorrt_rtx.BuilderFlag.TF32)
    assert build.builder.create_builder_config().get_flag(tensorrt_rtx.BuilderFlag.TF32)
