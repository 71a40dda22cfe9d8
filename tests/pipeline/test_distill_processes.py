"""Several processes that train one student, started by torchrun as a user would: the student of one process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from commands import edgepress, edgepress_process
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from safetensors.numpy import load_file
from tiny_models import CORPUS, make_model_dir

from edgepress.compress.distill.config import Training
from edgepress.compress.distill.processes import Processes
from edgepress.compress.distill.text import Text
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.pipeline.distill_job import Settings
from edgepress.pipeline.train_student import train_student

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
# Seven windows a step, so that the processes' parts differ, of conversations, so that their learned tokens do.
TRAIN = "length: 16, batch_tokens: 112, piece_tokens: 48, save_steps: 5, checks: 3, rate: 0.005, precision: float32"
SETTINGS = {
    "cached": f"loss: {{kl: 0.9, hard_labels: 0.1}}\ntrain: {{{TRAIN}, tokens: 1120}}\n",
    "adapted": f"loss: {{reverse_kl: 1}}\ntrain: {{{TRAIN}, tokens: 8960, top_k: 0, lora: {{rank: 4}}}}\n",
}
_PATIENCE_S = 600  # of a machine that is busy
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edgepress")


class Scene:
    """A teacher, a student of another width and conversations."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_model_dir("llama", root / "teacher")
        make_model_dir("llama", root / "student", seed=1, hidden_size=32, head_dim=8)
        messages = [{"role": "user", "content": CORPUS[:60]}, {"role": "assistant", "content": CORPUS[60:160]}]
        (root / "text.jsonl").write_text((json.dumps({"messages": messages}) + "\n") * 30, encoding="utf-8")
        for name, content in SETTINGS.items():
            (root / f"{name}.yaml").write_text(content, encoding="utf-8")

    def command(self, settings: str, name: str) -> list[str]:
        files = {"teacher": "teacher", "student": "student", "text": "text.jsonl", "settings": f"{settings}.yaml"}
        options = [part for option, file in files.items() for part in (f"--{option}", str(self.root / file))]
        return ["distill", *options, "-o", str(self.root / name), "--json"]

    def launch(self, settings: str, name: str) -> subprocess.Popen[str]:
        command = [*LAUNCH, *self.command(settings, name)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("processes"))


def compare(scene: Scene, settings: str, name: str, printed: str) -> None:
    """What two processes have made and printed with what one process makes."""
    one: dict[str, Any] = edgepress(*scene.command(settings, f"{settings}-one")).json()
    two: dict[str, Any] = json.loads(printed)  # fails where both have printed
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert len(set(one["losses"])) == len(one["losses"])
    divergences = [[check["held_out"] for check in record["checks"]] for record in (one, two)]
    assert divergences[1] == pytest.approx(divergences[0], rel=1e-5)
    theirs, ours = (load_file(scene.root / out / "model.safetensors") for out in (f"{settings}-one", name))
    for tensor, values in theirs.items():
        np.testing.assert_allclose(ours[tensor], values, rtol=1e-4, atol=2e-5)


def test_two_processes_train_the_student_of_one_and_one_of_them_speaks(scene: Scene) -> None:
    launcher = scene.launch("cached", "two")
    printed, err = launcher.communicate(timeout=_PATIENCE_S)
    assert launcher.returncode == 0, err
    assert err.count("text: ") == err.count("step 10 of 10") == 1
    compare(scene, "cached", "two", printed)
    speed = json.loads((scene.root / "two" / "measurements" / "speed.json").read_text("utf-8"))
    assert speed["processes"] == 2


def test_a_process_that_dies_ends_the_other_and_the_run_goes_on_later(scene: Scene) -> None:
    launcher = scene.launch("adapted", "killed")
    try:
        states = scene.root / "killed" / ".edgepress"
        _wait_for(lambda: any(states.glob("training-*/step-*")), launcher)
        children = psutil.Process(launcher.pid).children()
        next(child for child in children if child.environ()["RANK"] == "1").kill()
        printed, err = launcher.communicate(timeout=_PATIENCE_S)
    finally:
        launcher.kill()
    assert launcher.returncode != 0
    assert "Signal 9 (SIGKILL) received by PID" in err
    assert printed == ""
    assert not any(child.is_running() for child in children)
    assert not (scene.root / "killed" / "model.safetensors").exists()
    again = scene.launch("adapted", "killed")
    printed, err = again.communicate(timeout=_PATIENCE_S)
    assert err.count("training goes on after step") == 1, err
    compare(scene, "adapted", "killed", printed)


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_more_processes_than_windows_in_a_step_are_refused(scene: Scene) -> None:
    teacher = open_student(str(scene.root / "teacher"))
    text = Text(np.zeros((2, 16), np.int32), np.ones((2, 16), bool))
    settings = Settings(train=Training(length=16, batch_tokens=33))
    three = Processes(2, 3, torch.device("cpu"))
    with pytest.raises(InputError, match="33 are 2 windows of 16, too few for 3 processes; take 48 or more"):
        train_student(teacher, teacher, settings, text, text, scene.root / "state", begun="", processes=three)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_of_a_step_make_it_whole(count: int) -> None:
    windows = np.arange(10, 17)
    parts = [Processes(index, count, torch.device("cpu")).part(windows) for index in range(count)]
    assert np.concatenate(parts).tolist() == windows.tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "edgepress", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == edgepress_process("--version").out
