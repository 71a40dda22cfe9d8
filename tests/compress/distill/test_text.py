"""What is learned of a text: every word of a document, the assistant's alone in a conversation, none of it twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import CORPUS, make_tokenizer

from edgepress.compress.distill.text import Text, conversation, draw, held_out_windows, read_windows, split, text_digest
from edgepress.errors import InputError
from edgepress.runtime.text import TextCodec

MESSAGES = [
    {"role": "user", "content": "The quick brown fox?"},
    {"role": "assistant", "content": "It jumps over the dog."},
    {"role": "user", "content": "And the jugs?"},
    {"role": "assistant", "content": "Five dozen."},
]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    directory = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(directory)
    return TextCodec(directory)


def write(path: Path, *lines: object) -> str:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    return str(path)


def spelled(codec: TextCodec, tokens: list[int]) -> str:
    return str(codec._tokenizer.decode(tokens, skip_special_tokens=False))


def test_only_the_assistants_words_and_their_end_are_learned(codec: TextCodec) -> None:
    document = conversation(codec, MESSAGES, "x")
    learned = [token for token, counts in zip(document.tokens, document.learned, strict=True) if counts]
    assert spelled(codec, learned) == "It jumps over the dog.<|im_end|>Five dozen.<|im_end|>"
    assert spelled(codec, document.tokens) == codec.render(MESSAGES, answer=False)


def test_what_is_learned_follows_what_is_given_at_run_time(codec: TextCodec) -> None:
    """The tokens before an answer are those that a chat would be asked with."""
    document = conversation(codec, MESSAGES[:2], "x")
    asked = codec.chat(MESSAGES[:1])
    assert document.tokens[: len(asked)] == asked
    assert document.learned[: len(asked) + 1] == [False] * len(asked) + [True]


def test_a_user_who_has_the_last_word_is_not_learned_from(codec: TextCodec) -> None:
    document = conversation(codec, MESSAGES[:3], "x")
    assert spelled(codec, document.tokens) == codec.render(MESSAGES[:3], answer=False)
    assert not document.learned[-1]


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] if loop.last else '…' }}|{% endfor %}", encoding="utf-8"
    )
    with pytest.raises(InputError, match="writes earlier turns anew"):
        conversation(TextCodec(tmp_path), MESSAGES, "chat.jsonl:1")


def test_documents_are_packed_end_to_end(codec: TextCodec, tmp_path: Path) -> None:
    lines = [CORPUS, "Pack my box.", CORPUS]
    path = write(tmp_path / "a.jsonl", *({"text": line} for line in lines))
    text = read_windows(codec, (path,), 16)
    stop = codec.encode("<|im_end|>", special=False)
    flat = [token for line in lines for token in codec.encode(line, special=False) + stop]
    assert text.tokens.ravel().tolist() == flat[: len(flat) // 16 * 16]
    assert bool(text.learned.all())
    assert text.tokens.dtype == np.int32


def test_plain_text_is_its_tokens(codec: TextCodec, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CORPUS * 3, encoding="utf-8")
    text = read_windows(codec, (str(tmp_path / "a.txt"),), 16)
    ids = codec.encode(CORPUS * 3, special=False)
    assert text.tokens.ravel().tolist() == ids[: text.tokens.size]


def test_windows_without_a_word_of_the_assistant_are_left_out(codec: TextCodec, tmp_path: Path) -> None:
    long = [{"role": "user", "content": CORPUS * 5}, {"role": "assistant", "content": CORPUS}]
    text = read_windows(codec, (write(tmp_path / "a.jsonl", {"messages": long}, {"messages": long}),), 16)
    assert bool(text.learned[:, 1:].any(1).all())
    assert not bool(text.learned.all())


def test_what_is_held_out_is_not_trained_on_and_nothing_is_lost(codec: TextCodec, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CORPUS * 20, encoding="utf-8")
    text = read_windows(codec, (str(tmp_path / "a.txt"),), 16)
    numbered = replace(text, tokens=np.arange(text.tokens.size, dtype=np.int32).reshape(text.tokens.shape))
    train, held_out = split(numbered, 0)
    assert len(held_out.tokens) == len(text.tokens) // 8
    assert sorted(np.concatenate([train.tokens.ravel(), held_out.tokens.ravel()])) == list(range(text.tokens.size))
    again, other = split(numbered, 0)[1], split(numbered, 1)[1]
    assert np.array_equal(held_out.tokens, again.tokens)
    assert not np.array_equal(held_out.tokens, other.tokens)


def test_of_a_long_text_windows_come_from_all_of_it_and_more_of_it_begins_with_less() -> None:
    tokens = np.repeat(np.arange(1000, dtype=np.int32)[:, None], 4, 1)  # windows are their own numbers
    text = Text(tokens, tokens % 3 == 0)
    few, many = draw(text, 100), draw(text, 300)
    assert np.array_equal(few.tokens, many.tokens[:100])
    assert np.array_equal(many.learned, many.tokens % 3 == 0)
    chosen = many.tokens[:, 0]
    assert len(set(chosen.tolist())) == 300
    shares = np.histogram(chosen, bins=4, range=(0, 1000))[0]
    assert shares.min() > 50, shares  # 75 of each quarter, give or take three standard deviations
    whole = draw(text, 5000).tokens
    assert np.array_equal(whole[:300], many.tokens)
    assert np.array_equal(np.sort(whole[:, 0]), np.arange(1000))


def test_what_is_drawn_has_nothing_to_do_with_what_is_held_out() -> None:
    beside, expected = 0, 0.0
    for count in range(600, 6000, 60):
        tokens = np.repeat(np.arange(count, dtype=np.int32)[:, None], 256, 1)
        rest, held_out = split(Text(tokens, tokens >= 0), 0)
        trained, apart = set(draw(rest, count // 10).tokens[:, 0].tolist()), set(held_out.tokens[:, 0].tolist())
        neighbours = {place + step for place in apart for step in (-1, 1)} & set(rest.tokens[:, 0].tolist())
        assert not trained & apart
        beside += len(trained & neighbours)
        expected += len(neighbours) * (count // 10) / len(rest.tokens)
    assert 0.8 < beside / expected < 1.2


def test_held_out_windows_come_from_all_files(codec: TextCodec, tmp_path: Path) -> None:
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file, word in zip(files, ("yes ", "no "), strict=True):
        file.write_text(word * 40_000, encoding="utf-8")
    found = held_out_windows(codec, tuple(map(str, files)), (), 64).tokens
    assert found.size == 4096
    judged = [spelled(codec, window.tolist()) for window in found]
    assert any("yes" in window for window in judged)
    assert any("no" in window for window in judged)


def test_held_out_text_that_is_trained_on_is_refused(codec: TextCodec, tmp_path: Path) -> None:
    training = write(tmp_path / "a.jsonl", {"text": CORPUS}, {"messages": MESSAGES})
    shared = write(tmp_path / "b.jsonl", {"text": "Before. " + CORPUS * 2})
    with pytest.raises(InputError, match=r"share .* runs of 13 words"):
        held_out_windows(codec, (shared,), (training,), 16)
    other = write(tmp_path / "c.jsonl", {"text": " ".join(f"word{number}" for number in range(80))})
    assert len(held_out_windows(codec, (other,), (training,), 16).tokens) > 1


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    digests = [text_digest((str(tmp_path / name),)) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a\.jsonl:2: not JSON"),
        ("[1]", r"a\.jsonl:2: wanted"),
        ('{"txt": "x"}', r"a\.jsonl:2: wanted"),
        ('{"messages": []}', r"a\.jsonl:2: wanted"),
        ('{"messages": [{"role": "user"}]}', r"a\.jsonl:2: wanted"),
        ('{"text": 3}', r"a\.jsonl:2: wanted"),
    ],
)
def test_a_line_that_is_neither_is_named(codec: TextCodec, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": CORPUS}) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_windows(codec, (str(path),), 16)


def test_too_little_text_and_nothing_to_learn_are_refused(codec: TextCodec, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Too short.", encoding="utf-8")
    with pytest.raises(InputError, match="two windows of 16 need 32"):
        read_windows(codec, (str(tmp_path / "a.txt"),), 16)
    asked = {"messages": [{"role": "user", "content": CORPUS}]}
    with pytest.raises(InputError, match="nothing to learn"):
        read_windows(codec, (write(tmp_path / "b.jsonl", asked, asked),), 16)
    with pytest.raises(InputError, match="no such file"):
        read_windows(codec, (str(tmp_path / "none.txt"),), 16)


def test_only_a_line_feed_ends_a_line(codec: TextCodec, tmp_path: Path) -> None:
    text = "The quick\u2028brown\u0085fox jumps over the lazy dog."
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\r\n" for _ in range(20)), "utf-8")
    read = read_windows(codec, (str(path),), 8)
    again = read_windows(codec, (write(tmp_path / "a.jsonl", *[{"text": text}] * 20),), 8)
    np.testing.assert_array_equal(read.tokens, again.tokens)


def test_half_of_a_pair_of_surrogates_is_named(codec: TextCodec, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "fox"}\n{"text": "\\ud800"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"t\.jsonl:2: not JSON"):
        read_windows(codec, (str(tmp_path / "t.jsonl"),), 8)


def test_a_system_message_in_common_is_no_overlap(codec: TextCodec, tmp_path: Path) -> None:
    system = {"role": "system", "content": " ".join(f"rule{number}" for number in range(30))}
    names = []
    for part in ("one", "two"):
        turns = [{"role": "user", "content": part}, {"role": "assistant", "content": f"{part} fox " * 4}]
        names.append(write(tmp_path / f"{part}.jsonl", *[{"messages": [system, *turns]}] * 4))
    assert len(held_out_windows(codec, (names[0],), (names[1],), 8).tokens)
    with pytest.raises(InputError, match="share"):
        held_out_windows(codec, (names[0],), (names[0],), 8)
