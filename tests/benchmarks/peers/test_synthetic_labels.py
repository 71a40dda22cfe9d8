"""The halves of the tweets, and the rows of the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgepress.benchmarks.peers.synthetic_labels import read_tweets, split
from edgepress.compress.labels.task import read_task
from edgepress.errors import InputError


def make_tweets(folder: Path, labels: str) -> None:
    for name, content in (
        ("mapping", "0\tnegative\n1\tneutral\n2\tpositive\n"),
        ("val_labels", labels),
        ("val_text", "bad day \nthe news \u2028 at nine\ngood day\nworst\n"),
    ):
        (folder / f"tweeteval_sentiment_{name}.txt").write_text(content, encoding="utf-8")


def test_one_half_is_unlabelled_and_the_other_the_test(tmp_path: Path) -> None:
    make_tweets(tmp_path, "0\n1\n2\n0\n")
    split(read_tweets(tmp_path), tmp_path / "work", None)
    test = [json.loads(line) for line in (tmp_path / "work" / "test.jsonl").read_text("utf-8").splitlines()]
    assert test == [{"text": "good day", "label": "positive"}, {"text": "worst", "label": "negative"}]
    assert (tmp_path / "work" / "texts.txt").read_text("utf-8") == "bad day\nthe news \u2028 at nine\n"
    assert read_task(tmp_path / "work" / "task.yaml").names == ("negative", "neutral", "positive")


def test_labels_that_nobody_named_are_refused(tmp_path: Path) -> None:
    make_tweets(tmp_path, "0\n1\n3\n0\n")
    with pytest.raises(InputError, match="known labels"):
        read_tweets(tmp_path)
