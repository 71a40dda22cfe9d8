"""What TensorRT's builder and runtime have in common, where there is no GPU."""

from __future__ import annotations

import pytest
import tensorrt_rtx

from edgepress.errors import EdgepressError
from edgepress.runtime.tensorrt_builder import error_logger, started


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
