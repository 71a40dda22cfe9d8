"""Datasets on disk are the lines of a JSONL file, and what is neither is refused in a line."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from tiny_models import CORPUS, make_tokenizer

from edgepress.compress.distill.documents import documents_digest, entries, require_documents
from edgepress.compress.distill.text import held_out_windows, read_windows
from edgepress.errors import EdgepressError, InputError
from edgepress.runtime.text import TextCodec

TEXTS = [{"text": CORPUS}, {"text": "Pack my box."}, {"text": ""}, {"text": f"{CORPUS}\n{CORPUS}"}]
CHATS = [
    {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": question}, answer]}
    for question in ("The quick brown fox?", "And the jugs?")
    for answer in ({"role": "assistant", "content": CORPUS}, {"role": "assistant", "content": "Five dozen."})
]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    directory = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(directory)
    return TextCodec(directory)


def on_disk(path: Path, rows: Sequence[dict[str, Any]], shards: int = 1) -> str:
    datasets.Dataset.from_list(list(rows)).save_to_disk(str(path), num_shards=shards)
    return str(path)


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("rows", [TEXTS, CHATS])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_dataset_is_cut_as_the_same_lines_of_a_file_are(
    rows: list[dict[str, Any]], shards: int, codec: TextCodec, tmp_path: Path
) -> None:
    of_file = read_windows(codec, (lines(tmp_path / "a.jsonl", rows),), 16)
    found = read_windows(codec, (on_disk(tmp_path / "a", rows, shards),), 16)
    assert found.tokens.tolist() == of_file.tokens.tolist()
    assert found.learned.tolist() == of_file.learned.tolist()


def test_other_columns_are_nobodys_business(codec: TextCodec, tmp_path: Path) -> None:
    rows = [row | {"id": place, "label": None} for place, row in enumerate(TEXTS)]
    assert [entry.text for entry in entries(on_disk(tmp_path / "a", rows))] == [row["text"] for row in TEXTS]


def test_a_part_of_a_dataset_is_what_was_chosen_of_it(tmp_path: Path) -> None:
    datasets.Dataset.from_list(TEXTS).select([3, 1]).save_to_disk(str(tmp_path / "a"))
    assert [entry.text for entry in entries(str(tmp_path / "a"))] == [TEXTS[3]["text"], TEXTS[1]["text"]]


def test_a_dataset_with_the_words_of_another_text_is_not_held_out_of_it(codec: TextCodec, tmp_path: Path) -> None:
    long = " ".join(f"word{place}" for place in range(40))
    judged = on_disk(tmp_path / "a", [{"text": f"and {long} so"}])
    with pytest.raises(InputError, match="share"):
        held_out_windows(codec, (judged,), (lines(tmp_path / "b.jsonl", [{"text": long}]),), 16)


def test_a_digest_is_of_the_rows(tmp_path: Path) -> None:
    digests = [documents_digest(on_disk(tmp_path / str(n), rows)) for n, rows in enumerate([TEXTS, TEXTS[:3]])]
    assert digests[0] != digests[1]
    assert digests[0] == documents_digest(str(tmp_path / "0"))


def test_what_its_library_keeps_beside_a_dataset_is_not_of_it(tmp_path: Path) -> None:
    before = documents_digest(on_disk(tmp_path / "a", TEXTS))
    datasets.load_from_disk(str(tmp_path / "a")).map(lambda row: {"text": row["text"] * 2})
    assert list((tmp_path / "a").glob("cache-*"))
    assert documents_digest(str(tmp_path / "a")) == before


def test_fields_that_only_other_messages_have_are_not_there(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Fox?"}, {"role": "assistant", "content": "Dog.", "name": "Rex"}]
    (entry,) = entries(on_disk(tmp_path / "a", [{"messages": chat, "text": None}]))
    assert entry.messages == chat


@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_a_format_that_was_set_changes_nothing(form: str, tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_list([row | {"ids": [1, 2]} for row in CHATS])
    dataset.set_format(form, columns=["ids"])
    dataset.save_to_disk(str(tmp_path / "a"))
    assert [entry.messages for entry in entries(str(tmp_path / "a"))] == [row["messages"] for row in CHATS]


def test_of_both_a_text_and_messages_the_messages_are_read(tmp_path: Path) -> None:
    row = {"text": "Something else.", "messages": CHATS[0]["messages"]}
    for name in (lines(tmp_path / "a.jsonl", [row]), on_disk(tmp_path / "a", [row])):
        (entry,) = entries(name)
        assert entry.messages == row["messages"] and not entry.text
        assert "Something" not in entry.words and "Be short" not in entry.words and CORPUS in entry.words


@pytest.mark.parametrize(("names", "given"), [(("validation", "train"), "train"), (("test", "extra"), "extra")])
def test_of_a_dataset_with_splits_one_is_to_be_given(names: tuple[str, ...], given: str, tmp_path: Path) -> None:
    whole = datasets.DatasetDict({name: datasets.Dataset.from_list(TEXTS) for name in names})
    whole.save_to_disk(str(tmp_path / "a"))
    splits = ", ".join(sorted(names))
    with pytest.raises(InputError, match=f"text: .*a: holds the datasets {splits}; give one, as .*a/{given}"):
        require_documents("text", str(tmp_path / "a"))
    require_documents("text", str(tmp_path / "a" / names[0]))
    assert len(list(entries(str(tmp_path / "a" / names[0])))) == len(TEXTS)


def test_a_dataset_whose_splits_are_not_there_is_none(tmp_path: Path) -> None:
    datasets.DatasetDict({}).save_to_disk(str(tmp_path / "a"))
    with pytest.raises(InputError, match="a directory, and no dataset"):
        require_documents("text", str(tmp_path / "a"))


def test_any_other_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a directory, and no dataset that save_to_disk wrote; list its text files"):
        require_documents("text", str(tmp_path))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "answer": "b"}], "has the columns prompt, answer; wanted text or messages"),
        ([{"text": "a"}, {"text": None}], 'row 1: wanted {"text"'),
        ([{"messages": [{"role": "user"}]}], 'row 0: wanted {"text"'),
        ([{"messages": []}], 'row 0: wanted {"text"'),
        ([{"messages": [{"role": "user", "content": "a", "at": datetime.datetime(2026, 1, 1)}]}], "row 0: not JSON"),
    ],
)
def test_rows_that_are_no_documents_are_refused(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        list(entries(on_disk(tmp_path / "a", rows)))
    assert message in str(caught.value)


def test_a_damaged_dataset_is_refused_in_one_line(tmp_path: Path) -> None:
    path = Path(on_disk(tmp_path / "a", TEXTS))
    (data,) = path.glob("*.arrow")
    data.write_bytes(data.read_bytes()[:40])
    with pytest.raises(InputError, match="the dataset cannot be read") as caught:
        list(entries(str(path)))
    assert "\n" not in str(caught.value)


def test_without_the_library_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = on_disk(tmp_path / "a", TEXTS)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for read in (lambda: require_documents("text", path), lambda: list(entries(path))):
        with pytest.raises(
            EdgepressError, match=r"datasets is not installed; run: pip install 'edgepress\[datasets\]'"
        ):
            read()
