"""torch's threads sleep soon when they wait, engines' do as ever, and what the user has set stays."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml
from commands import edgepress_process
from own_cache import own_cache  # noqa: F401

from edgepress.compress.openmp import brief_waits

pytestmark = pytest.mark.usefixtures("own_cache")
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def settings(student: Path, folder: Path, own_text: bool, **variables: str) -> str:
    """What GNU OpenMP prints, as often as it is loaded by ``edgepress compress``."""
    (folder / "text.txt").write_text("A model reads this text, and whatever else there is to read in the world. " * 40)
    calibration = {"self": own_text, "files": [str(folder / "text.txt")], "samples": 2, "length": 16}
    step = {"step": "quantize", "solver": "gptaq", "format": "q4_0"}
    recipe = {"calibration": calibration, "compress": [step], "export": ["gguf"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ("compress", student, "--recipe", folder / "recipe.yaml", "-o", folder / "out")
    done = edgepress_process(*arguments, OMP_DISPLAY_ENV="VERBOSE", **variables)
    assert done.code == 0, done.err
    return done.err


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is torch's on Linux")
@pytest.mark.parametrize("own_text", [True, False])
def test_the_solvers_threads_wait_briefly(own_text: bool, llama_dir: Path, tmp_path: Path) -> None:
    assert "GOMP_SPINCOUNT = '1000'" in settings(llama_dir, tmp_path, own_text)


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is torch's on Linux")
@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "PASSIVE"}])
def test_the_users_own_setting_stays(own: dict[str, str], llama_dir: Path, tmp_path: Path) -> None:
    told = settings(llama_dir, tmp_path, False, **own)
    assert "GOMP_SPINCOUNT = '1000'" not in told
    assert any(f"{name} = '{value}'" in told for name, value in own.items())


def test_nothing_is_left_for_engines_and_workers() -> None:
    with pytest.raises(RuntimeError), brief_waits():
        assert os.environ["GOMP_SPINCOUNT"] == "1000"
        raise RuntimeError
    assert "GOMP_SPINCOUNT" not in os.environ
