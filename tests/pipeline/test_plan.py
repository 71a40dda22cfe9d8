"""The plan refuses before any work, and states what the work will take."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny_models import make_model_dir

from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.plan import check_disk, make_plan
from edgepress.pipeline.targets import predict_files
from edgepress.pipeline.text_needed import needs_calibration
from edgepress.recipe import Bench, Evaluate, Recipe

NEAREST = Recipe(compress=(QuantizeStep(solver="nearest", format="q4_0"),))
SEARCH = Recipe(compress=(QuantizeStep(solver="scale_search", format="q4_0"),))


@pytest.fixture
def student(llama_dir: Path) -> Student:
    return open_student(str(llama_dir))


def test_only_a_solver_that_looks_at_activations_needs_text() -> None:
    assert needs_calibration(SEARCH)
    assert not needs_calibration(NEAREST)
    assert not needs_calibration(Recipe())


def test_a_missing_calibration_text_is_refused_where_one_is_needed(student: Student) -> None:
    calibration = Calibration(self_generated=False, files=("absent.txt",))
    with pytest.raises(InputError, match=r"calibration\.files: absent\.txt: no such file"):
        make_plan(student, msgspec.structs.replace(SEARCH, calibration=calibration), ())
    make_plan(student, msgspec.structs.replace(NEAREST, calibration=calibration), ())


def test_a_directory_in_place_of_a_text_is_refused_as_one(student: Student, tmp_path: Path) -> None:
    calibration = Calibration(self_generated=False, files=(str(tmp_path),))
    with pytest.raises(InputError, match=r"calibration\.files: .*: a directory; list the text files in it"):
        make_plan(student, msgspec.structs.replace(SEARCH, calibration=calibration), ())


def test_what_only_the_measurements_need_is_refused_before_anything_is_made(student: Student) -> None:
    missing = msgspec.structs.replace(NEAREST, evaluate=Evaluate(files=("absent.txt",)))
    with pytest.raises(InputError, match=r"evaluate\.files: absent\.txt: no such file"):
        make_plan(student, missing, ("gguf",))
    deep = msgspec.structs.replace(NEAREST, bench=Bench(depth=(0, 255)))
    with pytest.raises(InputError, match=r"bench\.depth: 255 tokens leave no room in the student's context of 256"):
        make_plan(student, deep, ("gguf",))
    make_plan(student, msgspec.structs.replace(NEAREST, bench=Bench(depth=(0, 254))), ("gguf",))


def test_checkpoints_that_pass_away_need_disk_too(student: Student) -> None:
    calibration = Calibration(samples=8)
    for step, beside in (({}, 0), ({"qad_tokens": 100}, 1), ({"max_kld": 0.1}, 2)):
        quantize = QuantizeStep(solver="nearest", choices=("q4_0",) if "max_kld" in step else (), **step)
        recipe = Recipe(calibration=calibration, compress=(quantize,))
        plan = make_plan(student, recipe, ())
        assert plan.disk_bytes == (1 + beside) * plan.checkpoint_bytes


def test_the_students_evaluation_text_is_no_calibration_text(student: Student) -> None:
    recipe = msgspec.structs.replace(SEARCH, calibration=Calibration(seed=1_000_003))
    with pytest.raises(InputError, match=r"calibration\.seed"):
        make_plan(student, recipe, ("gguf",))
    make_plan(student, msgspec.structs.replace(recipe, evaluate=None), ("gguf",))


def test_compress_alone_does_not_care_about_measurements(student: Student) -> None:
    make_plan(student, msgspec.structs.replace(NEAREST, evaluate=Evaluate(files=("absent.txt",))), ())


def test_the_plan_lists_the_files_of_the_asked_targets_only(student: Student) -> None:
    assert make_plan(student, NEAREST, ()).files == {}
    assert list(make_plan(student, NEAREST, ("gguf",)).files) == ["gguf/model.gguf"]
    both = make_plan(student, NEAREST, ("gguf", "onnx"))
    assert {path.partition("/")[0] for path in both.files} == {"gguf", "onnx"}
    assert both.files == predict_files(both.model, "gguf") | predict_files(both.model, "onnx")
    assert both.disk_bytes == both.checkpoint_bytes + sum(both.files.values())


def test_a_model_that_a_target_cannot_hold_is_refused_by_the_plan(tmp_path: Path) -> None:
    directory = make_model_dir("qwen3", tmp_path / "student", attention_bias=True)
    with pytest.raises(InputError, match=r"o_proj\.bias"):
        make_plan(open_student(str(directory)), NEAREST, ("gguf",))


def test_a_full_disk_is_refused_with_both_numbers(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(student, NEAREST, ("gguf",))
    usage = namedtuple("usage", ("total", "used", "free"))
    asked: list[Path] = []

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return usage(10**9, 10**9, free)

    monkeypatch.setattr("edgepress.pipeline.plan.shutil.disk_usage", disk_usage)
    out = tmp_path / "not" / "yet" / "there"
    free = plan.disk_bytes
    check_disk(plan, out)
    free = plan.disk_bytes - 1
    with pytest.raises(InputError, match=r"needs \d+ MB and \d+ MB are free; free some space or choose another disk"):
        check_disk(plan, out)
    assert asked == [tmp_path, tmp_path]


def test_a_relative_output_is_looked_for_where_it_will_be(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_disk(make_plan(student, NEAREST, ()), Path("out"))


def test_peak_memory_does_not_grow_with_depth_without_self_written_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("words " * 1000, encoding="utf-8")
    calibration = Calibration(self_generated=False, files=(str(text),), samples=4, length=32)
    for recipe in (NEAREST, msgspec.structs.replace(SEARCH, calibration=calibration)):
        peaks = set()
        for depth in (2, 9):
            directory = make_model_dir("llama", tmp_path / f"{recipe.quantize.solver}{depth}", num_hidden_layers=depth)
            peaks.add(make_plan(open_student(str(directory)), recipe, ()).peak_memory_bytes)
        assert len(peaks) == 1


# Compresses in a process of its own and prints the stated and the true peak. (getrusage would include the parent's
# memory from before the program was replaced.)
_COMPRESS = """
import json, re, sys
from pathlib import Path
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.pipeline.run import compress
from edgepress.recipe import Recipe

recipe = Recipe(compress=(QuantizeStep(solver="nearest", format="q4_0"),))
plan = compress(open_student(sys.argv[1]), recipe, Path(sys.argv[2]))
kilobytes = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps([plan.peak_memory_bytes, int(kilobytes[1]) * 1024]))
"""


def test_the_stated_peak_is_not_exceeded(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "vocab_size": 16000}
    directory = make_model_dir("llama", tmp_path / "student", num_attention_heads=8, **sizes)
    command = [sys.executable, "-c", _COMPRESS, str(directory), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    stated, peak = json.loads(done.stdout)
    assert peak <= stated
    assert stated < 4 * peak
    assert f"peak memory about {stated / 1e6:.0f} MB" in done.stderr
