"""torch's threads sleep soon when they wait, engines' do as ever, and what the user has set stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgepress.compress.openmp import brief_waits

# GNU OpenMP prints its settings when it is loaded and asked to.
PRESS = """
import sys, edgepress.pipeline.press
assert "torch" not in sys.modules
from edgepress.compress.openmp import brief_waits
with brief_waits():
    import torch
"""


def settings_of(code: str, **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = kept | {"OMP_DISPLAY_ENV": "VERBOSE"} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is torch's on Linux")
def test_torch_is_loaded_with_brief_waits() -> None:
    told = settings_of(PRESS)
    assert "GOMP_SPINCOUNT = '1000'" in told


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is torch's on Linux")
def test_the_users_own_setting_stays() -> None:
    assert "GOMP_SPINCOUNT = '77'" in settings_of(PRESS, GOMP_SPINCOUNT="77")
    assert "GOMP_SPINCOUNT = '1000'" not in settings_of(PRESS, OMP_WAIT_POLICY="ACTIVE")


def test_nothing_is_left_for_engines_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with pytest.raises(RuntimeError), brief_waits():
        assert os.environ["GOMP_SPINCOUNT"] == "1000"
        raise RuntimeError
    assert "GOMP_SPINCOUNT" not in os.environ
