"""No command writes over what it reads, or over what another command wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepress.errors import InputError
from edgepress.pipeline.own_output import check_own_output

LEFT = {"run": "checkpoint", "distill": "distillation.json", "gad": "gad.json", "classifier": "classifier.json"}


@pytest.mark.parametrize("command", list(LEFT))
@pytest.mark.parametrize("other", list(LEFT))
def test_what_another_command_wrote_is_refused_and_ones_own_is_not(tmp_path: Path, command: str, other: str) -> None:
    (tmp_path / LEFT[other]).touch()
    if command == other:
        check_own_output(command, tmp_path)  # type: ignore[arg-type]
        return
    with pytest.raises(InputError, match=f"holds what 'edgepress {other}' wrote; choose another directory"):
        check_own_output(command, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("below", [".", "checkpoint", "a/model.gguf"])
def test_a_model_in_the_output_is_refused_however_the_path_is_spelt(tmp_path: Path, below: str) -> None:
    out = tmp_path / "out"
    (out / below).mkdir(parents=True, exist_ok=True)
    (tmp_path / "link").symlink_to(out)
    for spelt in (out / below, tmp_path / "link" / below, out / ".." / "out" / below):
        with pytest.raises(InputError, match="which is read; choose another directory"):
            check_own_output("distill", out, None, str(spelt))


def test_models_elsewhere_and_names_that_are_no_paths_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    check_own_output("distill", tmp_path / "student" / "out", str(tmp_path / "student"), "smollm2-135m-instruct")
    check_own_output("distill", tmp_path / "out", str(tmp_path / "student"))
