"""Several processes that train one student, started by torchrun as a user would: the student of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from commands import edgepress, edgepress_process
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from safetensors.numpy import load_file
from tiny_models import CORPUS, make_model_dir

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
TRAIN = "length: 16, batch_tokens: 112, piece_tokens: 48, save_steps: 2, checks: 2, rate: 0.005, precision: float32"
SETTINGS = {
    "cache": f"loss: {{kl: 0.9, hard_labels: 0.1}}\ntrain: {{{TRAIN}, tokens: 700}}\n",
    "adapters": f"loss: {{reverse_kl: 1}}\ntrain: {{{TRAIN}, tokens: 700, top_k: 0, lora: {{rank: 4}}}}\n",
    "long": f"train: {{{TRAIN}, tokens: 1_000_000}}\n",
    "narrow": "train: {length: 16, batch_tokens: 16, tokens: 64}\n",
}
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edgepress")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, a student of other widths, text in which little is learned at times, and settings."""
    root = tmp_path_factory.mktemp("processes")
    make_model_dir("llama", root / "teacher")
    make_model_dir("llama", root / "student", seed=1, hidden_size=32, head_dim=8)
    messages = [{"role": "user", "content": CORPUS[:60]}, {"role": "assistant", "content": CORPUS[60:160]}]
    (root / "text.jsonl").write_text((json.dumps({"messages": messages}) + "\n") * 30, encoding="utf-8")
    for name, content in SETTINGS.items():
        (root / f"{name}.yaml").write_text(content, encoding="utf-8")
    return root


def command(scene: Path, settings: str, out: Path) -> list[str]:
    files = {"teacher": "teacher", "student": "student", "text": "text.jsonl", "settings": f"{settings}.yaml"}
    options = [part for name, file in files.items() for part in (f"--{name}", str(scene / file))]
    return ["distill", *options, "-o", str(out), "--json"]


def launched(scene: Path, settings: str, out: Path) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, *LAUNCH, *command(scene, settings, out)]
    return subprocess.run(started, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.parametrize("settings", ["cache", "adapters"])
def test_two_processes_train_the_student_of_one(settings: str, scene: Path, tmp_path: Path) -> None:
    """Seven windows a step, so that their parts differ; of conversations, so that their learned tokens do."""
    one = edgepress(*command(scene, settings, tmp_path / "one")).json()
    done = launched(scene, settings, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    two: dict[str, Any] = json.loads(done.stdout)  # of one process alone
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert [check["held_out_kl"] for check in two["checks"]] == pytest.approx(
        [check["held_out_kl"] for check in one["checks"]], rel=1e-4
    )
    assert len(set(one["losses"])) == 6
    assert done.stderr.count("text: ") == done.stderr.count("step 6 of 6") == 1
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-3, atol=3e-4)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


def test_one_process_that_dies_ends_the_others_and_the_run_goes_on_later(scene: Path, tmp_path: Path) -> None:
    started = [sys.executable, *LAUNCH, *command(scene, "long", tmp_path / "out")]
    launcher = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        states = tmp_path / "out" / ".edgepress"
        _wait_for(lambda: any(states.glob("training-*/step-*")), launcher)
        second = next(child for child in psutil.Process(launcher.pid).children() if child.environ().get("RANK") == "1")
        others = [child for child in psutil.Process(launcher.pid).children() if child != second]
        second.send_signal(signal.SIGKILL)
        assert launcher.wait(timeout=60) != 0
        assert not any(other.is_running() for other in others)
    finally:
        launcher.kill()
        _, err = launcher.communicate()
    assert "Signal 9" in err or "SIGKILL" in err
    (scene / "long.yaml").write_text(SETTINGS["long"], encoding="utf-8")
    again = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert again.stderr is not None
        said = next(line for line in again.stderr if "goes on after step" in line or "Error" in line)
    finally:
        again.terminate()
        again.communicate()
    assert "training goes on after step" in said


def _wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_more_processes_than_windows_in_a_step_are_refused(scene: Path, tmp_path: Path) -> None:
    done = launched(scene, "narrow", tmp_path / "out")
    assert done.returncode != 0
    assert "error: batch_tokens: 16 are 1 windows of 16, too few for 2 processes; take 32 or more" in done.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgepress", "--version"], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0
    assert done.stdout == edgepress_process("--version").out
