"""A bound on a token's time goes by measured costs, is kept by what is chosen, and is refused where it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from commands import edgepress
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING
from edgepress.benchmarks.cost_records import COSTS_VERSION, CostsRecord, ProductCost
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.search.records import COSTS_FILE, read_allocation
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.pipeline.costs import matrix_shapes, multiplied, token_time_limit
from edgepress.runtime.environment import Environment, read_machine, read_state

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
CHOICES = ("q4_0", "q8_0")
Time = Callable[[int, int, str], float]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir("llama", tmp_path_factory.mktemp("costs") / "student")


def smaller_is_slower(rows: int, columns: int, format: str) -> float:
    return {"q4_0": 2.0, "q8_0": 1.0}[format]


def write_costs(student: Path, path: Path, time: Time = smaller_is_slower, **changes: Any) -> Path:
    """A record with made-up times for the student's shapes."""
    shapes = matrix_shapes(open_student(str(student)))
    costs = tuple(
        ProductCost(
            format=format,
            rows=shape.rows,
            columns=shape.columns,
            bytes=1,
            copies=1,
            kernels="made up",
            decode_ms=time(shape.rows, shape.columns, format),
            prefill_ms=None,
            samples_decode_ms=(),
            samples_prefill_ms=(),
        )
        for shape in shapes
        for format in CHOICES
    )
    state = read_state()
    record = CostsRecord(
        version=COSTS_VERSION,
        engine="llama.cpp",
        engine_version="",
        model="",
        threads=1,
        prompt=512,
        cache_bytes=None,
        shapes=shapes,
        costs=costs,
        environment=Environment(machine=read_machine(), before=state, after=state),
        warnings=(),
    )
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, **changes)))
    return path


def write_recipe(path: Path, **step: Any) -> Path:
    document = {
        "calibration": {"self": True, "samples": 4, "length": 32},
        "compress": [{"step": "quantize", "solver": "nearest", "choices": list(CHOICES)} | step],
        "export": ["gguf"],
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("beside", [{}, {"max_kld": 5.0}, {"target_mb": 1.0}])
def test_formats_are_within_the_time_and_the_record_says_what_the_bound_cost(
    student: Path, tmp_path: Path, beside: dict[str, float]
) -> None:
    """15 matrices, of 2 ms each where they are small: 18 ms leave room for three small ones."""
    costs = write_costs(student, tmp_path / "costs.json")
    recipe = write_recipe(tmp_path / "r.yaml", target_ms=18.5, costs=str(costs), **beside)
    done = edgepress("compress", student, "--recipe", recipe, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    checkpoint = Checkpoint(tmp_path / "out" / "checkpoint")
    formats = [checkpoint.format(name) for name in multiplied(open_student(str(student)))]
    assert len(formats) == 15
    allocation = read_allocation(tmp_path / "out" / "checkpoint")
    assert allocation is not None and allocation.time is not None
    assert allocation.time.target_ms == 18.5
    assert allocation.time.chosen_ms == formats.count("q8_0") + 2 * formats.count("q4_0") <= 18.5
    # Fewest bytes without the bound: all small. Least divergence within any budget: all large, which is fast here.
    assert allocation.time.unbounded_ms == (30.0 if "max_kld" in beside else 15.0)
    assert formats.count("q4_0") == (3 if "max_kld" in beside else 0)
    assert (tmp_path / "out" / "checkpoint" / COSTS_FILE).read_bytes() == costs.read_bytes()


def test_new_times_in_the_file_make_the_formats_anew_and_another_place_does_not(student: Path, tmp_path: Path) -> None:
    costs = write_costs(student, tmp_path / "costs.json")

    def compress(target_ms: float, costs: Path) -> str:
        recipe = write_recipe(tmp_path / "r.yaml", target_ms=target_ms, costs=str(costs), max_kld=5.0)
        done = edgepress("compress", student, "--recipe", recipe, "-o", tmp_path / "out")
        assert done.code == 0, done.err
        return done.err

    assert "up to date" not in compress(16.5, costs)
    assert "up to date" in compress(16.5, costs.rename(tmp_path / "moved.json"))
    write_costs(student, tmp_path / "moved.json", lambda rows, columns, format: 1.0)
    assert "up to date" not in compress(16.5, tmp_path / "moved.json")
    checkpoint = Checkpoint(tmp_path / "out" / "checkpoint")
    assert {checkpoint.format(name) for name in multiplied(open_student(str(student)))} == {"q4_0"}


def test_matrices_that_the_recipe_fixes_take_their_part_of_the_time(student: Path, tmp_path: Path) -> None:
    costs = str(write_costs(student, tmp_path / "costs.json"))
    fixed = QuantizeStep(target_ms=20.0, costs=costs, choices=CHOICES, embedding="q4_0", formats={"*down_proj": "q8_0"})
    limit = token_time_limit(open_student(str(student)), fixed, "gguf")
    assert limit is not None
    assert EMBEDDING not in limit.table and len(limit.table) == 12
    assert (limit.bound, limit.elsewhere) == (20.0 - 2.0 - 2 * 1.0, 4.0)


def test_an_embedding_beside_a_head_of_its_own_costs_no_time(tmp_path: Path) -> None:
    student = make_model_dir("llama3", tmp_path / "student")
    costs = str(write_costs(student, tmp_path / "costs.json"))
    step = QuantizeStep(target_ms=20.0, costs=costs, choices=CHOICES)
    limit = token_time_limit(open_student(str(student)), step, "gguf")
    assert limit is not None
    assert limit.table[EMBEDDING] == {"q4_0": 0.0, "q8_0": 0.0}
    assert limit.table["lm_head.weight"] == {"q4_0": 2.0, "q8_0": 1.0}


def test_costs_of_float_activations_say_nothing_of_int8_ones(student: Path, tmp_path: Path) -> None:
    costs = str(write_costs(student, tmp_path / "costs.json"))
    step = QuantizeStep(target_ms=20.0, costs=costs, choices=CHOICES, activations="int8")
    with pytest.raises(InputError, match="costs are those of float activations"):
        token_time_limit(open_student(str(student)), step, "gguf")


@pytest.mark.parametrize(
    ("step", "changes", "message"),
    [
        ({"target_ms": 1.0}, {}, "target_ms allows 1 ms per token"),
        ({"target_ms": 20.0, "target_mb": 0.001}, {}, "smallest file takes"),
        ({"target_ms": 20.0}, {"engine": "onnxruntime"}, "runs in llama.cpp; measure there"),
        ({"target_ms": 20.0}, {"version": 0}, "version 0, wanted 1"),
        ({"target_ms": 20.0}, {"costs": ()}, "has no time for model.embed_tokens.weight"),
        ({"target_ms": 20.0, "choices": ["q4_0", "q5_0"]}, {}, "in q5_0; measure it on the device"),
        ({"target_ms": 20.0, "embedding": "q6_K", "fallback": "f16"}, {}, "in f16; measure it on the device"),
        ({"target_ms": 20.0, "costs": "nowhere.json"}, {}, "nowhere.json: cannot be read"),
        ({"target_ms": 20.0, "costs": "r.yaml"}, {}, "r.yaml: not a record of 'edgepress costs'"),
        ({"target_ms": 20.0, "costs": None}, {}, "target_ms needs costs"),
        ({"target_mb": 1.0}, {}, "costs bounds nothing without target_ms"),
        ({"target_ms": -1.0}, {}, "target_ms"),
        ({"target_ms": 20.0, "max_kld": 1.0, "target_mb": 1.0}, {}, "target_mb and max_kld cannot both be met"),
    ],
)
def test_what_cannot_be_bounded_is_one_line_before_any_work(
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: dict[str, Any],
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_costs(student, tmp_path / "costs.json", **changes)
    recipe = write_recipe(tmp_path / "r.yaml", **{"costs": "costs.json"} | step)
    done = edgepress("compress", student, "--recipe", recipe, "-o", tmp_path / "out")
    assert message in done.error()
    assert not (tmp_path / "out").exists()


def test_two_limits_that_exclude_each_other_are_one_line(student: Path, tmp_path: Path) -> None:
    costs = write_costs(student, tmp_path / "costs.json")
    plain = write_recipe(tmp_path / "plain.yaml", format="q4_0", choices=[])
    made = edgepress("compress", student, "--recipe", plain, "-o", tmp_path / "none", "--dry-run", "--json").json()
    assert made["tensors"]
    small = sum(
        tensor["shape"][0] * tensor["shape"][1] * 4.5 / 8 for tensor in made["tensors"] if len(tensor["shape"]) == 2
    )
    recipe = write_recipe(tmp_path / "r.yaml", target_ms=15.5, costs=str(costs), target_mb=(small + 30_000) / 1e6)
    done = edgepress("compress", student, "--recipe", recipe, "-o", tmp_path / "out")
    assert done.code == 2
    assert "cannot both be met: within target_ms the smallest formats come to" in done.err
    assert not (tmp_path / "out" / "checkpoint").exists()
