"""``edgepress classifier``: labels whose rule is known are learned, and the files are what other tools take."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from commands import edgepress
from encoders import make_encoder_dir
from killed_runs import Outcome, Run, Runner
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from planted_teacher import TASK, make_planted_teacher, marked_texts
from report_output import Page, numbers
from tiny_models import make_model_dir

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
SETTINGS = """
{epochs: 4, batch: 8, piece: 4, rate: 0.0005, checks: 4, save_steps: 10, length: 24, precision: float32, patience: 0}
"""
MADE = ("classifier.json", "config.json", "model.safetensors", "tokenizer.json")


class Scene:
    """Labels of a planted teacher, gold ones with its answers, students and settings below ``root``."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root, self.perform = root, runner.perform
        make_planted_teacher(root / "teacher")
        make_encoder_dir("bert", root / "bert")
        make_model_dir("llama", root / "llama")
        (root / "task.yaml").write_text(TASK + "near_duplicates: 1\n", encoding="utf-8")
        (root / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
        texts, gold = marked_texts(160, 0), marked_texts(80, 1)
        (root / "texts.txt").write_text("\n".join(text for text, _ in texts), encoding="utf-8")
        lines = [json.dumps({"text": text, "label": label}) for text, label in gold]
        (root / "gold.jsonl").write_text("\n".join(lines), encoding="utf-8")
        command = ("label", root / "texts.txt", "--teacher", root / "teacher", "--task", root / "task.yaml")
        done = edgepress(*command, "--gold", root / "gold.jsonl", "-o", root / "labels.jsonl")
        assert done.code == 0, done.err

    def command(self, out: Path, *more: str, student: str = "bert", gold: str = "labels.gold.jsonl") -> tuple[str, ...]:
        files = ("--text", str(self.root / "labels.jsonl"), "--gold", str(self.root / gold))
        settings = ("--settings", str(self.root / "settings.yaml"))
        return ("classifier", "--student", str(self.root / student), *files, *settings, "-o", str(out), *more)

    def run(self, name: str, kill_at: int | None = None) -> Run:
        home = self.root / name
        return Run(self.command(home / "out"), cache=str(home / "cache"), root=str(home), kill_at=kill_at)

    def files(self, name: str) -> dict[str, str]:
        out = self.root / name / "out"
        return {file: hashlib.sha256((out / file).read_bytes()).hexdigest() for file in MADE}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Runner() as runner:
        yield Scene(tmp_path_factory.mktemp("classifier"), runner)


@pytest.fixture(scope="module")
def undisturbed(scene: Scene) -> Outcome:
    outcome = scene.perform(scene.run("undisturbed"))[0]
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.mark.parametrize(("mode", "least"), [("head", 0.85), ("whole", 0.95)])
def test_a_known_rule_is_learned(scene: Scene, tmp_path: Path, mode: str, least: float) -> None:
    record = edgepress(*scene.command(tmp_path / "out", "--mode", mode, "--json", student="llama")).json()
    gold = record["gold"]
    assert gold["majority"]["accuracy"] == gold["uncalibrated"]["accuracy"] == 0.5
    assert gold["teacher"]["accuracy"] == 1.0
    assert gold["student"]["accuracy"] > least
    assert record["agreement"] > 0.8
    wrong = 1 - gold["student"]["accuracy"]
    assert record["apart"][0] == pytest.approx(-wrong)
    assert (len(record["losses"]) > 0) == (mode == "whole")


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.9, 0.98])
def test_a_killed_run_goes_on_to_the_same_files(scene: Scene, undisturbed: Outcome, share: float) -> None:
    name, kill_at = f"killed-{share}", round(share * len(undisturbed.changes))
    killed, ended = scene.perform(scene.run(name, kill_at), scene.run(name))
    assert killed.code == -signal.SIGKILL
    assert ended.code == 0, ended.err
    assert scene.files(name) == scene.files("undisturbed")
    out = scene.root / name / "out"
    assert not [path for path in out.rglob("*") if ".partial" in path.name or "training" in path.name]


def test_a_finished_classifier_is_not_made_again(scene: Scene, undisturbed: Outcome) -> None:
    again = scene.perform(scene.run("undisturbed"))[0]
    assert "classifier: up to date" in again.err
    assert not [path for _, path in again.changes if path.endswith(".safetensors")]


def answers(out: Path, texts: list[str]) -> np.ndarray:
    """The files in transformers, one text at a time."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"))
    with torch.no_grad():
        rows = [model(torch.tensor([tokenizer.encode(text)])).logits[0] for text in texts]
    return torch.stack(rows).numpy()


def test_the_record_is_what_transformers_makes_of_the_files(scene: Scene, undisturbed: Outcome) -> None:
    out = scene.root / "undisturbed" / "out"
    record = json.loads((out / "classifier.json").read_text("utf-8"))
    gold = marked_texts(80, 1)
    told = answers(out, [text for text, _ in gold]).argmax(axis=1)
    right = [record["labels"][place] == label for place, (_, label) in zip(told, gold, strict=True)]
    assert np.mean(right) == pytest.approx(record["gold"]["student"]["accuracy"])
    assert len(record["losses"]) == 4 * record["trained_on"] // 8
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "plus", "1": "equals"}


def test_the_encoder_command_takes_it(scene: Scene, undisturbed: Outcome, tmp_path: Path) -> None:
    out = scene.root / "undisturbed" / "out"
    command = ("encoder", out, "--calibration", scene.root / "texts.txt", "-o", tmp_path / "int8", "--json")
    record = edgepress(*command).json()
    assert record["export"]["outputs"] == ["logits"]
    assert len(record["export"]["quantized"]) == 12
    assert record["export"]["fidelity"]["logits"]["cosine_mean"] > 0.95


def test_the_page_shows_the_record(scene: Scene, undisturbed: Outcome) -> None:
    out = scene.root / "undisturbed" / "out"
    record = json.loads((out / "classifier.json").read_text("utf-8"))
    page = Page(out / "report.html")
    row = page.row("quality-table", "student")
    assert numbers(row[1])[0] == pytest.approx(100 * record["gold"]["student"]["accuracy"], abs=0.6)
    assert page.row("quality-table", "teacher")[3] == f"{record['gold']['teacher']['ece']:.3f}"
    assert page.figure("course")[0][0]["y"] == [check["held_out_kl"] for check in record["checks"]]
    confusion = page.figure("confusion-student")[0][0]["text"]
    assert confusion == [[str(count) for count in counts] for counts in record["gold"]["student"]["confusion"]]
    cost = json.loads((out / "measurements" / "cost.json").read_text("utf-8"))
    assert page.row("cost-table", "student")[2] == f"{cost['student']['parameters']:,}"
    assert page.row("cost-table", "teacher: teacher")[2] == f"{cost['teacher']['parameters']:,}"
    assert "--settings settings.yaml" in page.texts["commands"]
    assert [link for link in page.links if not link.startswith(("#", "data:,"))] == []


def test_soft_labels_are_learned_as_such(scene: Scene, tmp_path: Path) -> None:
    """On labels of one and the same distribution the best head says that distribution, soft, and the label, hard."""
    texts = [text for text, _ in marked_texts(100, 2)]
    lines = [{"text": text, "label": "a", "probabilities": {"a": 0.7, "b": 0.3}} for text in texts]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found: dict[str, Any] = {}
    for targets in ("soft", "hard"):
        (tmp_path / "s.yaml").write_text(f"mode: head\ntargets: {targets}\nlength: 24\nridge: 1.0\n", encoding="utf-8")
        command = ("classifier", "-s", scene.root / "bert", "--text", tmp_path / "labels.jsonl")
        done = edgepress(*command, "--settings", tmp_path / "s.yaml", "-o", tmp_path / targets)
        assert done.code == 0, done.err
        logits = answers(tmp_path / targets, texts[:5])
        found[targets] = np.exp(logits)[:, 0] / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(found["soft"], 0.7, atol=1e-3)
    assert (found["hard"] > 0.99).all()


def test_labels_without_probabilities_and_without_gold_will_do(scene: Scene, tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in marked_texts(100, 3)]
    (tmp_path / "plain.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = ("classifier", "-s", scene.root / "llama", "--text", tmp_path / "plain.jsonl", "--mode", "head")
    record = edgepress(*command, "-o", tmp_path / "out", "--json").json()
    assert record["labels"] == ["equals", "plus"]
    assert record["gold"] == {}
    assert record["agreement"] > 0.8
    assert "quality-table" not in Page(tmp_path / "out" / "report.html").tables


def test_gold_texts_are_not_trained_on(scene: Scene, tmp_path: Path) -> None:
    gold = [json.dumps({"text": text, "label": label}) for text, label in marked_texts(160, 0)[:40]]
    (tmp_path / "gold.jsonl").write_text("\n".join(gold), encoding="utf-8")
    command = scene.command(tmp_path / "out", "--mode", "head", "--json", gold=str(tmp_path / "gold.jsonl"))
    record = edgepress(*command).json()
    assert record["in_gold"] == 40
    assert record["trained_on"] + record["held_out"] == 120


def line(**fields: Any) -> str:
    return json.dumps({"text": "a dog #", "label": "plus"} | fields) + "\n"


def labels(content: str) -> Callable[[Path], object]:
    return lambda root: (root / "labels.jsonl").write_text(content, encoding="utf-8")


HALVES = {"plus": 0.5, "equals": 0.5}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda root: (root / "gold.jsonl").write_text(line(label="other")), (), "label 'other' is not one of plus, e"),
        (labels(line(probabilities=HALVES) + line()), (), "labels.jsonl:2: probabilities: wanted a probability for"),
        (labels(line(probabilities={"plus": 0.5, "equals": 0.2})), (), "of sum 1"),
        (labels(line(probabilities={"plus": 2, "equals": -1})), (), "of sum 1"),
        (labels(line() * 20), (), "one label only, 'plus'"),
        (labels(line(label=3)), (), 'labels.jsonl:1: wanted {"text": "…", "label": "…"}'),
        (labels(line(text="x @", label="equals") + line()), (), "2 texts that are not gold ones; give more"),
        (labels(""), (), "labels.jsonl: no text in it"),
        (labels("[1]"), (), 'labels.jsonl:1: wanted {"text": "…"}'),
        (None, ("--mode", "some"), "--mode 'some': unknown; known: head, whole"),
        (lambda root: (root / "s.yaml").write_text("rat: 1"), ("--settings", "s.yaml"), "unknown field `rat`"),
        (None, ("--settings", "none.yaml"), "none.yaml: no such file"),
        (None, ("--student", "nothing"), "nothing: no such file or directory"),
        (lambda root: (root / "s.yaml").write_text("length: 999"), ("--settings", "s.yaml"), "length: 999 tokens;"),
    ],
)
def test_wrong_inputs_are_one_line(
    change: Callable[[Path], object] | None,
    options: tuple[str, ...],
    message: str,
    scene: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [line(text=text, label=label, probabilities=HALVES) for text, label in marked_texts(20, 4)]
    labels("".join(texts))(tmp_path)
    (tmp_path / "gold.jsonl").write_text(line(text="over #"), encoding="utf-8")
    if change:
        change(tmp_path)
    student = () if "--student" in options else ("--student", scene.root / "bert")
    done = edgepress("classifier", *student, *options, "--text", "labels.jsonl", "--gold", "gold.jsonl", "-o", "out")
    assert message in done.error()
    assert not (tmp_path / "out").exists()
