"""Conversations: whole characters, the cache reused without a difference, and where an answer ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bigram_session import BigramSession, random_table
from chat_templates import CONVERSATIONS, TEMPLATES, set_template
from exports import export_everywhere, export_tiny
from tiny_models import make_model_dir
from tiny_tokenizers import sentencepiece_like

from edgepress.errors import InputError
from edgepress.runtime.dialogue import Dialogue, open_dialogue
from edgepress.runtime.gguf_text import GgufCodec
from edgepress.runtime.llamacpp import LlamaCppSession
from edgepress.runtime.locate import ENGINES, Engine, choose_model, open_session
from edgepress.runtime.text import TextCodec

VOCAB = 320


class ByteCodec:
    """Tokens 0 to 255 are bytes, 256 ends an answer: characters of several tokens in the plainest form."""

    stop_ids = frozenset({256})

    def encode(self, text: str, *, special: bool) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        return self.encode("".join(message["content"] for message in messages), special=False)


def chain(text: bytes, then: int) -> BigramSession:
    """A model that says ``text``, whose bytes are all different, and then the token ``then``."""
    table = np.zeros((257, 257), np.float32)
    for this, following in zip(text, [*text[1:], then], strict=True):
        table[this, following] = 9
    return BigramSession(table)


def greedy(session: BigramSession, prompt: list[int], tokens: int, stop: frozenset[int]) -> list[int]:
    """The plain loop: everything is computed again for every token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + tokens:
        best = int(session.table[ids[-1]].argmax())
        if best in stop:
            break
        ids.append(best)
    return ids[len(prompt) :]


@pytest.fixture
def bigram() -> BigramSession:
    return BigramSession(random_table(257, 3.0, seed=5))


@pytest.mark.parametrize("tokens", [1, 2, 30])
def test_pieces_join_to_the_text_of_a_plain_greedy_loop(bigram: BigramSession, tokens: int) -> None:
    codec = ByteCodec()
    prompt = codec.encode("start", special=False)
    wanted = codec.decode(greedy(bigram, prompt, tokens, codec.stop_ids))
    assert "".join(Dialogue(bigram, codec).stream(prompt, tokens)) == wanted


def test_no_piece_ends_within_a_character() -> None:
    text = "a\u00e9\u4f60\U0001f600z"
    data = text.encode()
    assert len(set(data)) == len(data)
    pieces = list(Dialogue(chain(b"!" + data, then=256), ByteCodec()).stream([ord("!")], 50))
    assert [piece for piece in pieces if piece] == list(text)


def test_bytes_that_never_become_a_character_come_at_the_end() -> None:
    pieces = list(Dialogue(chain(b"!ab\xe4\xbd", then=256), ByteCodec()).stream([ord("!")], 50))
    assert [piece for piece in pieces if piece] == ["a", "b", "\N{REPLACEMENT CHARACTER}"]


def test_an_answer_ends_before_a_stop_id_and_at_the_asked_length() -> None:
    assert "".join(Dialogue(chain(b"!abc", then=256), ByteCodec()).stream([ord("!")], 50)) == "abc"
    assert "".join(Dialogue(chain(b"!abc", then=256), ByteCodec()).stream([ord("!")], 2)) == "ab"
    assert "".join(Dialogue(chain(b"!", then=256), ByteCodec()).stream([ord("!")], 50)) == ""


def test_an_answer_ends_where_the_context_does(bigram: BigramSession) -> None:
    bigram.context_limit = 8
    prompt = [65, 66, 67]
    spoken = "".join(Dialogue(bigram, ByteCodec()).stream(prompt, 100))
    # Five tokens fit behind the prompt; one more is predicted from the last of them.
    assert spoken == ByteCodec().decode(greedy(bigram, prompt, 6, ByteCodec.stop_ids))
    assert bigram.position == 8


def test_a_prompt_without_room_for_an_answer_is_one_line(bigram: BigramSession) -> None:
    bigram.context_limit = 8
    with pytest.raises(InputError, match="the conversation has 8 tokens, the context 8; start a new one"):
        next(Dialogue(bigram, ByteCodec()).stream([65] * 8, 4))
    with pytest.raises(InputError, match="no tokens"):
        next(Dialogue(bigram, ByteCodec()).stream([], 4))


def test_what_a_prompt_shares_with_the_conversation_is_computed_once(bigram: BigramSession) -> None:
    dialogue = Dialogue(bigram, ByteCodec())
    prompt = [65, 66, 67]
    said = greedy(bigram, prompt, 5, ByteCodec.stop_ids)
    list(dialogue.stream(prompt, 5))
    bigram.evaluated = bigram.resets = 0
    longer = [*prompt, *said, 70, 71]
    again = "".join(dialogue.stream(longer, 1))
    assert again == ByteCodec().decode(greedy(bigram, longer, 1, ByteCodec.stop_ids))
    assert bigram.resets == 0
    assert bigram.evaluated <= 2 + 1  # what is new, and the answer


def test_a_prompt_that_goes_another_way_starts_anew(bigram: BigramSession) -> None:
    dialogue = Dialogue(bigram, ByteCodec())
    list(dialogue.stream([65, 66, 67], 5))
    for prompt in ([65, 66], [65, 66, 67], [65, 99, 67, 68, 69, 70, 71, 72, 73, 74]):
        wanted = ByteCodec().decode(greedy(bigram, prompt, 4, ByteCodec.stop_ids))
        assert "".join(dialogue.stream(prompt, 4)) == wanted


def test_an_answer_that_nobody_hears_out_does_not_spoil_the_next(bigram: BigramSession) -> None:
    dialogue = Dialogue(bigram, ByteCodec())
    prompt = [65, 66, 67]
    stream = dialogue.stream(prompt, 20)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    longer = [*prompt, *greedy(bigram, prompt, 3, ByteCodec.stop_ids), 80]
    wanted = ByteCodec().decode(greedy(bigram, longer, 6, ByteCodec.stop_ids))
    assert "".join(dialogue.stream(longer, 6)) == wanted


def test_a_refused_prompt_does_not_spoil_the_next(bigram: BigramSession) -> None:
    dialogue = Dialogue(bigram, ByteCodec())
    with pytest.raises(InputError, match="outside the vocabulary"):
        next(dialogue.stream([65, 999], 3))
    wanted = ByteCodec().decode(greedy(bigram, [65, 999 % 257, 66], 3, ByteCodec.stop_ids))
    assert "".join(dialogue.stream([65, 999 % 257, 66], 3)) == wanted
    with pytest.raises(InputError, match="outside the vocabulary"):
        next(dialogue.stream([65, 66, 999], 3))
    bigram.evaluated = 0
    list(dialogue.stream([65, 66, 67], 1))
    assert bigram.evaluated >= 3  # nothing of the refused prompt is taken for known


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny("llama", tmp_path_factory.mktemp("everywhere"))


@pytest.fixture(params=ENGINES)
def dialogue(request: pytest.FixtureRequest, everywhere: Path) -> Iterator[Dialogue]:
    with open_dialogue(choose_model(everywhere, request.param), context=128, threads=1) as opened:
        yield opened


def test_every_engine_answers_with_transformers_own_greedy_tokens(dialogue: Dialogue, everywhere: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    prompt = dialogue.codec.chat(CONVERSATIONS["one question"])
    model = AutoModelForCausalLM.from_pretrained(everywhere / "checkpoint")
    ids = torch.tensor([prompt])
    ended = sorted(dialogue.codec.stop_ids)
    generated = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, eos_token_id=ended, pad_token_id=2
    )
    wanted = TextCodec(everywhere / "checkpoint").decode(generated[0, len(prompt) :].tolist())
    assert "".join(dialogue.stream(prompt, 16)) == wanted


def test_every_engine_says_the_same_with_and_without_a_cache(dialogue: Dialogue, everywhere: Path) -> None:
    first = dialogue.codec.encode("The quick brown fox", special=False)
    logits = dialogue.session.prefill(first, logits="last")[0]
    ids = [int(logits.argmax())]
    while len(ids) < 8:
        ids.append(int(dialogue.session.decode(ids[-1]).argmax()))
    said = "".join(dialogue.stream(first, 8))
    assert said == dialogue.codec.decode(ids)
    second = [*first, *ids, *dialogue.codec.encode(" and five", special=False)]
    continued = "".join(dialogue.stream(second, 8))
    dialogue.session.reset()
    fresh = Dialogue(dialogue.session, dialogue.codec)
    assert "".join(fresh.stream(second, 8)) == continued
    assert "".join(fresh.stream(first, 8)) == said


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dialogue_speaks_with_the_tokenizer_of_its_own_file(engine: Engine, everywhere: Path) -> None:
    with open_dialogue(choose_model(everywhere, engine), context=32, threads=1) as opened:
        assert isinstance(opened.codec, GgufCodec if engine == "llama.cpp" else TextCodec)
        assert opened.session.context_limit == 32


@pytest.mark.parametrize("template", [*TEMPLATES, None])
def test_a_gguf_file_gives_a_conversation_the_ids_of_the_tokenizer_it_was_made_from(
    template: str | None, tmp_path: Path
) -> None:
    model = make_model_dir("llama", tmp_path / "student")
    set_template(model, TEMPLATES[template] if template else None)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    _same_ids(export_everywhere(model, tmp_path), template)


def test_a_gguf_file_in_sentence_pieces_begins_as_its_tokenizer_does(tmp_path: Path) -> None:
    tokenizer = sentencepiece_like(tmp_path / "tokenizer", prefix=True)
    model = make_model_dir("llama", tmp_path / "student")
    for file in tokenizer.iterdir():
        file.replace(model / file.name)
    vocab = len(TextCodec(model)._tokenizer.get_vocab())
    model = _with_vocabulary(model, tmp_path / "resized", vocab)
    _same_ids(export_everywhere(model, tmp_path), None)


def _with_vocabulary(model: Path, out: Path, vocab: int) -> Path:
    resized = make_model_dir("llama", out, vocab_size=vocab, bos_token_id=1, eos_token_id=2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).replace(resized / name)
    return resized


def _same_ids(out: Path, template: str | None) -> None:
    reference = TextCodec(out / "checkpoint")
    with open_session(choose_model(out, "llama.cpp"), context=32, threads=1) as session:
        assert isinstance(session, LlamaCppSession)
        codec = GgufCodec(session)
        for name, messages in CONVERSATIONS.items():
            if (template, name) != ("strict", "a system message"):
                assert codec.chat(messages) == reference.chat(messages), name
        assert codec.stop_ids >= reference.stop_ids
        for special in (True, False):
            assert codec.encode("Hello, 1984!", special=special) == reference.encode("Hello, 1984!", special=special)
