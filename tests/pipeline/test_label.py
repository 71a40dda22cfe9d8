"""``edgepress label``: a teacher whose preferences are known labels as it prefers, whatever it leans to."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import edgepress
from killed_runs import Run, Runner
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from planted_teacher import TASK, make_planted_teacher, marked_texts

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("label")
    make_planted_teacher(root / "teacher")
    (root / "task.yaml").write_text(TASK, encoding="utf-8")
    texts, gold = marked_texts(120, 0), marked_texts(40, 1)
    (root / "texts.txt").write_text("\n".join(text for text, _ in texts) + "\n", encoding="utf-8")
    lines = [json.dumps({"text": text, "label": label}) for text, label in gold]
    (root / "gold.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


def run(scene: Path, out: Path, task: str = "", *more: str | Path) -> dict[str, object]:
    out.parent.mkdir(exist_ok=True)
    (out.parent / "task.yaml").write_text(TASK + task, encoding="utf-8")
    command = ("label", scene / "texts.txt", "--teacher", scene / "teacher", "--task", out.parent / "task.yaml")
    record: dict[str, object] = edgepress(*command, "-o", out, *more, "--json").json()
    return record


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


NEAR = "near_duplicates: 1\n"


def test_a_leaning_teacher_labels_right_once_calibrated(scene: Path, tmp_path: Path) -> None:
    record = run(scene, tmp_path / "labels.jsonl", NEAR, "--gold", scene / "gold.jsonl")
    gold = record["gold"]
    assert isinstance(gold, dict)
    assert gold["none"]["accuracy"] == 0.5  # leans so far that it says one label only
    assert gold["batch"]["accuracy"] == gold["prior"]["accuracy"] == 1.0
    known = dict(marked_texts(120, 0))
    found = lines(tmp_path / "labels.jsonl")
    assert len(found) == 120
    assert all(known[str(entry["text"])] == entry["label"] for entry in found)


def test_probabilities_are_the_planted_odds(scene: Path, tmp_path: Path) -> None:
    run(scene, tmp_path / "labels.jsonl", NEAR + "calibration: none\n", "--gold", scene / "gold.jsonl")
    # behind #: + has 2 nats and = its leaning of 3; behind @: = has both
    wanted = {"plus": 1 / (1 + np.exp(1)), "equals": 1 / (1 + np.exp(5))}
    for entry in lines(tmp_path / "labels.gold.jsonl"):
        assert entry["probabilities"] == entry["uncalibrated"]
        probabilities = entry["uncalibrated"]
        assert isinstance(probabilities, dict)
        assert probabilities["plus"] == pytest.approx(wanted[str(entry["label"])], abs=1e-5)
    assert {entry["label"] for entry in lines(tmp_path / "labels.gold.jsonl")} == {"plus", "equals"}


def test_known_shares_give_the_leaning_back(scene: Path, tmp_path: Path) -> None:
    record = run(scene, tmp_path / "labels.jsonl", NEAR + "calibration: prior\n")
    lean = record["lean"]
    assert isinstance(lean, dict)
    assert lean["equals"] - lean["plus"] == pytest.approx(3, abs=1e-4)


def test_content_free_texts_give_the_leaning_back(scene: Path, tmp_path: Path) -> None:
    record = run(scene, tmp_path / "labels.jsonl", NEAR + 'calibration: contextual\ncontent_free: ["N/A", "dog"]\n')
    lean = record["lean"]
    assert isinstance(lean, dict)
    # such a text has no mark: its one feature is √2 times as large behind the norm
    assert lean["equals"] - lean["plus"] == pytest.approx(3 * 2**0.5, abs=1e-3)


def test_what_is_left_out_is_counted(scene: Path, tmp_path: Path) -> None:
    texts = [
        "dog fox #",
        "dog  FOX #",
        "",
        "the quick brown fox over lazy dog @",
        "the quick brown fox over lazy dogs @",
    ]
    texts += ["only gold #", "box " * 300, "jugs @", "five #", "dozen #"]
    (tmp_path / "few.txt").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "gold.jsonl").write_text('{"text": "Only gold! #", "label": "plus"}\n', encoding="utf-8")
    (tmp_path / "task.yaml").write_text(TASK + "calibration: prior\nper_class: smallest\n", encoding="utf-8")
    command = ("label", tmp_path / "few.txt", "--teacher", scene / "teacher", "--task", tmp_path / "task.yaml")
    record = edgepress(*command, "--gold", tmp_path / "gold.jsonl", "-o", tmp_path / "l.jsonl", "--json").json()
    assert record["read"] == 10
    assert record["dropped"] == {
        "empty": 1, "in_gold": 1, "repeated": 1, "nearly_repeated": 1, "too_long": 1, "unsure": 0, "over_the_cap": 1
    }  # fmt: skip
    assert record["kept"] == {"plus": 2, "equals": 2}
    assert [entry["text"] for entry in lines(tmp_path / "l.jsonl")] == [texts[0], texts[3], "jugs @", "five #"]


def test_an_engine_labels_as_torch_does(scene: Path, tmp_path: Path) -> None:
    from checkpoints import write_checkpoint

    from edgepress.export.gguf.writer import export_gguf

    checkpoint = write_checkpoint(scene / "teacher", tmp_path / "checkpoint", lambda _: "f32")
    (tmp_path / "gguf").mkdir()
    export_gguf(checkpoint, tmp_path / "gguf" / "model.gguf")
    run(scene, tmp_path / "torch.jsonl", NEAR)
    (tmp_path / "task.yaml").write_text(TASK + NEAR, encoding="utf-8")
    command = ("label", scene / "texts.txt", "--teacher", tmp_path, "--task", tmp_path / "task.yaml")
    done = edgepress(*command, "--engine", "llama.cpp", "-o", tmp_path / "llama.jsonl", "--json").json()
    assert done["cost"]["engine"] == "llama.cpp"
    pairs = zip(lines(tmp_path / "torch.jsonl"), lines(tmp_path / "llama.jsonl"), strict=True)
    for one, other in pairs:
        assert one["label"] == other["label"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-3)


def test_a_killed_run_goes_on_to_the_same_bytes(scene: Path, tmp_path: Path) -> None:
    command = (
        "label",
        str(scene / "texts.txt"),
        "--teacher",
        str(scene / "teacher"),
        "--task",
        str(scene / "task.yaml"),
    )

    def of(name: str, kill_at: int | None = None) -> Run:
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        whole = (*command, "-o", str(home / "labels.jsonl"))
        return Run(whole, cache=str(home / "cache"), root=str(home), kill_at=kill_at)

    with Runner() as runner:
        undisturbed = runner.perform(of("undisturbed"))[0]
        assert undisturbed.code == 0, undisturbed.err
        wanted = (tmp_path / "undisturbed" / "labels.jsonl").read_bytes()
        for share in (0.2, 0.5, 0.8, 0.98):
            name = f"killed-{share}"
            killed, ended = runner.perform(of(name, round(share * len(undisturbed.changes))), of(name))
            assert killed.code == -signal.SIGKILL
            assert ended.code == 0, ended.err
            assert (tmp_path / name / "labels.jsonl").read_bytes() == wanted
            assert not list((tmp_path / name).glob(".*.partial"))


def test_filters_that_leave_nothing_are_said(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(TASK + "margin: 0.999\n", encoding="utf-8")
    command = ("label", scene / "texts.txt", "--teacher", scene / "teacher", "--task", tmp_path / "task.yaml")
    done = edgepress(*command, "-o", tmp_path / "labels.jsonl")
    assert done.code == 2
    assert "error: no text is kept (before filters: plus " in done.err.splitlines()[-1]
    assert not (tmp_path / "labels.jsonl").exists()


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(content, encoding="utf-8")


def task(content: str) -> Callable[[Path], object]:
    return write("task.yaml", content)


LABELS = 'labels: {a: ["+"], b: ["="]}\n'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (task('labels: {a: ["+"], b: []}\ntemplate: "{text}"'), "labels: 'b' has no verbalizer"),
        (task('labels: {a: ["+"], b: [""]}\ntemplate: "{text}"'), "labels: 'b' has no verbalizer, or an empty one"),
        (task(LABELS + 'template: "text"'), "template: {text} stands in it 0 times"),
        (task('labels: {a: ["+"], b: ["+"]}\ntemplate: "{text}"'), "'+' stands for 'a' and for 'b'"),
        (task('labels: {a: ["+"]}\ntemplate: "{text}"'), "labels: 1 given"),
        (task(LABELS + 'template: "{text}"\nmargins: 1'), "unknown field `margins`"),
        (task(LABELS + 'template: "{text}"\nprior: {a: 1}'), "prior: wanted a share for each of a, b"),
        (task(LABELS + 'template: "{text}"\ncalibration: contextual\ncontent_free: []'), "content_free: empty"),
        (task('labels: {a: ["+", "re"], b: ["="]}\ntemplate: "Is {text} a"'), "melts into the end of the template"),
        (task(LABELS + 'template: "{text}"'), "with an empty text there is no token"),
        (task("labels: ["), "task.yaml: "),
        (write("texts.txt", "\n\n"), "texts.txt: no text in it"),
        (write("gold.jsonl", '{"text": "x", "label": "c"}'), "label 'c' is not one of"),
        (write("gold.jsonl", '{"label": "a"}'), 'gold.jsonl:1: wanted {"text": "…"}'),
        (write("gold.jsonl", "x"), "gold.jsonl:1: not JSON"),
        (lambda root: (root / "texts.txt").unlink(), "texts.txt: no such file"),
        (lambda root: (root / "labels.jsonl").mkdir(), "labels.jsonl: a directory"),
    ],
)
def test_wrong_inputs_are_one_line(
    change: Callable[[Path], object], message: str, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("texts.txt", "a dog #\na fox @\n")(tmp_path)
    write("gold.jsonl", '{"text": "box #", "label": "plus"}')(tmp_path)
    task(TASK)(tmp_path)
    change(tmp_path)
    gold = ("--gold", "gold.jsonl") if "gold" in message or "'c'" in message else ()
    done = edgepress("label", "texts.txt", "-t", scene / "teacher", "--task", "task.yaml", *gold, "-o", "labels.jsonl")
    assert message in done.error()
    assert not (tmp_path / "labels.jsonl").is_file()


def test_no_file_that_is_read_or_unknown_is_written_over(scene: Path, tmp_path: Path) -> None:
    texts, gold, other = tmp_path / "texts.jsonl", tmp_path / "labels.gold.jsonl", tmp_path / "mine.jsonl"
    texts.write_text('{"text": "fox"}\n', encoding="utf-8")
    gold.write_text((scene / "gold.jsonl").read_text("utf-8"), encoding="utf-8")
    other.write_text("mine", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    command = ("label", texts, "--teacher", scene / "teacher", "--task", scene / "task.yaml")
    for options, message in (
        (("-o", texts), "would write over"),
        (("--gold", gold, "-o", tmp_path / "labels.jsonl"), "would write over"),
        (("-o", other), "no earlier labelling"),
    ):
        assert message in edgepress(*command, *options).error()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
