"""``edgepress gad``: a student that every command takes, the same however often the work was killed."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_templates import set_template
from commands import edgepress
from killed_runs import Outcome, Run, Runner
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from report_output import Page
from tiny_models import make_model_dir

from edgepress.compress.student.open import open_student
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
SETTINGS = """
warm_up: {passes: 1, batch: 8, rate: 0.003, checks: 2}
gad: {steps: 6, discriminator_steps: 3, prompts: 4, samples: 2, answer_tokens: 8, rate: 0.001,
      discriminator_rate: 0.001, checks: 2, judge_steps: 3, save_steps: 2}
guards: {patience: 0}
"""
MADE = ("config.json", "gad.json", "manifest.json", "model.safetensors", "tokenizer.json")


def lines(count: int) -> list[dict[str, Any]]:
    said = ("The quick fox.", "Pack my box!", "The lazy dog.")
    return [
        {
            "messages": [
                {"role": "user", "content": f"Question {place}?"},
                {"role": "assistant", "content": said[place % 3]},
            ]
        }
        for place in range(count)
    ]


def write(path: Path, entries: list[Any]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


class Scene:
    """A student, answers and settings; each run has an output and a cache of its own below ``root``."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root = root
        self.perform = runner.perform
        make_model_dir("llama", root / "student")
        write(root / "answers.jsonl", lines(32))
        (root / "gad.yaml").write_text(SETTINGS, encoding="utf-8")

    def run(self, name: str, kill_at: int | None = None) -> Run:
        home = self.root / name
        names = {"student": "student", "text": "answers.jsonl", "settings": "gad.yaml"}
        options = [part for option, file in names.items() for part in (f"--{option}", str(self.root / file))]
        command = ("gad", *options, "-o", str(home / "out"))
        return Run(command, cache=str(home / "cache"), root=str(home), kill_at=kill_at)

    def files(self, name: str) -> dict[str, str]:
        out = self.root / name / "out"
        return {file: hashlib.sha256((out / file).read_bytes()).hexdigest() for file in MADE}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Runner() as runner:
        yield Scene(tmp_path_factory.mktemp("gad"), runner)


@pytest.fixture(scope="module")
def undisturbed(scene: Scene) -> Outcome:
    outcome = scene.perform(scene.run("undisturbed"))[0]
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.mark.parametrize("share", [0.15, 0.4, 0.6, 0.8, 0.97])
def test_a_killed_run_goes_on_to_the_same_files(scene: Scene, undisturbed: Outcome, share: float) -> None:
    name = f"killed-{share}"
    killed, ended = scene.perform(scene.run(name, round(share * len(undisturbed.changes))), scene.run(name))
    assert killed.code == -signal.SIGKILL
    assert ended.code == 0, ended.err
    assert scene.files(name) == scene.files("undisturbed")
    left = [
        path for path in (scene.root / name / "out").rglob("*") if ".partial" in path.name or "training" in path.name
    ]
    assert left == []


def test_training_resumes_and_does_not_start_anew(scene: Scene, undisturbed: Outcome) -> None:
    renames = [place for place, change in enumerate(undisturbed.changes) if change[0] == "os.rename"]
    kill_at = next(place for place in renames if "gad/.step-00000006" in undisturbed.changes[place][1]) + 2
    killed, ended = scene.perform(scene.run("resumed", kill_at), scene.run("resumed"))
    assert killed.code == -signal.SIGKILL
    assert "training goes on after step 6" in ended.err
    assert scene.files("resumed") == scene.files("undisturbed")


def test_a_finished_student_is_not_made_again(scene: Scene, undisturbed: Outcome) -> None:
    again = scene.perform(scene.run("undisturbed"))[0]
    assert "student: up to date" in again.err
    assert not [path for _, path in again.changes if path.endswith(".safetensors")]


def test_the_page_draws_the_record(scene: Scene, undisturbed: Outcome) -> None:
    out = scene.root / "undisturbed" / "out"
    record = json.loads((out / "gad.json").read_text("utf-8"))
    assert len(record["steps"]) == 9
    assert [check["step"] for check in record["checks"]] == [0, 6, 9]
    page = Page(out / "report.html")
    assert page.figure("win-rate")[0][0]["y"] == [check["win_rate"] for check in record["checks"]]
    assert page.figure("accuracy")[0][0]["y"] == [check["accuracy"] for check in record["checks"]]
    assert page.figure("reward")[0][0]["y"] == [step["reward"] for step in record["steps"]]
    assert page.figure("kl")[0][0]["y"] == [step["kl"] for step in record["steps"][3:]]
    assert page.figure("diversity")[0][1]["y"] == [check["self_bleu"] for check in record["checks"]]
    assert "none ended the training" in page.texts["endings"]
    assert f"24, {record['answer_tokens']} tokens" in page.texts["course"]
    assert "edgepress gad --student" in page.texts["commands"]
    assert [link for link in page.links if not link.startswith(("#", "data:,"))] == []


def test_the_student_is_one_that_transformers_takes(scene: Scene, undisturbed: Outcome) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    out = scene.root / "undisturbed" / "out"
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(out)(tokens).logits
        torch.testing.assert_close(load_model(open_student(str(out)))(tokens).logits, theirs)


def test_held_out_answers_a_seed_and_json(scene: Scene, tmp_path: Path) -> None:
    write(tmp_path / "held-out.jsonl", lines(40)[32:])
    (tmp_path / "gad.yaml").write_text("warm_up: {passes: 0}\ngad: {steps: 0, answer_tokens: 8, judge_steps: 2}\n")
    done = edgepress(
        "gad", "--student", scene.root / "student", "--text", scene.root / "answers.jsonl",
        "--held-out", tmp_path / "held-out.jsonl", "--settings", tmp_path / "gad.yaml", "--seed", "7",
        "-o", tmp_path / "out", "--json",
    )  # fmt: skip
    record = done.json()
    assert (record["answers"], record["held_out_answers"], record["warm_up"]) == (32, 8, None)
    assert "seed: 7" in Page(tmp_path / "out" / "report.html").texts["settings"]
    assert (tmp_path / "out" / "model.safetensors").is_file()


def answers(*entries: Any) -> Callable[[Path], object]:
    return lambda root: write(root / "answers.jsonl", list(entries))


def settings(content: str) -> Callable[[Path], object]:
    return lambda root: (root / "gad.yaml").write_text(content, encoding="utf-8")


EMPTY = {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": ""}]}
LONG = {"messages": [{"role": "user", "content": "Hi. " * 200}, {"role": "assistant", "content": "Hi."}]}


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ((), answers({"text": "Some words."}), 'answers.jsonl:1: wanted {"messages"'),
        ((), answers(*lines(9), EMPTY), "answers.jsonl:10: the teacher's answer is empty"),
        ((), answers(*lines(9), LONG), "answers.jsonl:10: a prompt of"),
        ((), answers(*lines(5)), "5 answers to 5 different prompts"),
        ((), answers(), "0 answers to 0 different prompts"),
        ((), lambda root: (root / "answers.jsonl").write_text("{"), "answers.jsonl:1: wanted"),
        ((), lambda root: set_template(root / "student", None), "the tokenizer has no chat template"),
        ((), settings("gad: {stepz: 3}"), "gad.yaml: Object contains unknown field `stepz`"),
        ((), settings("gad: {samples: 1}"), "gad.yaml: Expected `int` >= 2"),
        ((), settings("gad: {answer_tokens: 4096}"), "lower gad.answer_tokens"),
        (("--text", "plain.txt"), lambda root: (root / "plain.txt").write_text("Words."), "plain.txt: wanted a .jsonl"),
        (("--text", "none.jsonl"), None, "none.jsonl: no such file"),
        (("--held-out", "answers.jsonl"), None, "of its prompts are in the text that is trained on"),
        (("--settings", "none.yaml"), None, "none.yaml: cannot be read"),
        (("--seed", "-1"), None, None),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_nothing_is_written(
    options: tuple[str, ...],
    change: Callable[[Path], object] | None,
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model_dir("llama", tmp_path / "student")
    write(tmp_path / "answers.jsonl", lines(32))
    settings(SETTINGS)(tmp_path)
    if change:
        change(tmp_path)
    command = ("gad", "--student", "student", "--text", "answers.jsonl", "--settings", "gad.yaml")
    done = edgepress(*command, *options, "-o", "out")
    assert done.code == 2
    if message is not None:
        assert message in done.error()
    assert not (tmp_path / "out").exists()
