"""Fixtures shared by all tests: tiny random models of every family, written the way Hugging Face writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import FAMILY_NAMES, make_model_dir

from edgepress.runtime.cuda_device import read_gpu


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if read_gpu() is None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU or driver here"))


@pytest.fixture(scope="session", params=FAMILY_NAMES)
def family_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory with a tiny random model, one per family."""
    return make_model_dir(request.param, tmp_path_factory.mktemp(request.param) / "student")


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory with a tiny random Llama."""
    return make_model_dir("llama", tmp_path_factory.mktemp("llama") / "student")
