"""A disk that is full, or fills up on the way: one line, exit code 2, nothing half-written under a final name."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_disk import run_on_small_disk


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(place: Path) -> None:
    code = "import sys; from edgepress.cli import main; sys.argv[1:] = sys.argv[2:]; main()"
    (place / "disk").mkdir()
    done = run_on_small_disk(code, place / "disk", 200, "run", "student", "-r", "r.yaml", "-o", "disk/out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: disk/out: the output needs 1 MB and 0 MB are free; free some space or choose another disk"
    ]


# Takes the size check away, as if the disk filled up after it; what is left on the disk goes to stdout.
_FILLS_UP = """
import sys
from pathlib import Path
from edgepress.cli import main
from edgepress.pipeline import run

disk = Path(sys.argv[1])
run.check_disk = lambda plan, out: None
sys.argv[1:] = sys.argv[2:]
try:
    main()
finally:
    print(*sorted(path.name for path in (disk / "out").iterdir()))
"""


@pytest.mark.parametrize(("kilobytes", "left"), [(250, ".edgepress"), (620, ".edgepress checkpoint")])
def test_a_disk_that_fills_up_leaves_nothing_half_written(kilobytes: int, left: str, place: Path) -> None:
    """Too small for the checkpoint; too small for the ONNX weights behind it."""
    (place / "disk").mkdir()
    with (place / "r.yaml").open("a", encoding="utf-8") as recipe:
        recipe.write("export: [onnx]\n")
    done = run_on_small_disk(_FILLS_UP, place / "disk", kilobytes, "run", "student", "-r", "r.yaml", "-o", "disk/out")
    assert done.returncode == 2
    assert done.stdout.split() == left.split()
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == done.stderr.splitlines()[-1:]
    assert "the disk is full; free some space and run the same command again" in errors[0]
