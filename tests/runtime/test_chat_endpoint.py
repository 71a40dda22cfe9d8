"""A teacher behind HTTP says what it says in this process, through every fault that passes; the others are one line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from chat_server import ChatServer, answering, make_teacher_dir, serving
from one_core import one_core  # noqa: F401

from edgepress.errors import EdgepressError, InputError
from edgepress.runtime.answering import LocalAnswerer, Sampling
from edgepress.runtime.chat_endpoint import ChatEndpoint
from edgepress.runtime.http_post import asked_wait_s

pytestmark = pytest.mark.usefixtures("one_core")
KEY = "sk-secret-123"
ASKED = [{"role": "user", "content": "The quick brown fox?"}]
SHORT = Sampling(tokens=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAnswerer]:
    with answering(make_teacher_dir(tmp_path_factory.mktemp("teacher") / "model")) as answerer:
        yield answerer


@pytest.fixture
def server(model: LocalAnswerer) -> Iterator[ChatServer]:
    with serving(model, KEY) as running:
        yield running


def endpoint(server: ChatServer, key: str | None = KEY, address: str = "") -> ChatEndpoint:
    return ChatEndpoint(address or server.url, "tiny", key=key, timeout_s=20, first_wait_s=0.01)


@pytest.mark.parametrize("sampling", [SHORT, Sampling(tokens=12, temperature=1.0)])
def test_it_says_what_the_model_says(server: ChatServer, model: LocalAnswerer, sampling: Sampling) -> None:
    assert endpoint(server).answer(ASKED, sampling, 5) == model.answer(ASKED, sampling, 5)
    wanted = {"model": "tiny", "messages": ASKED, "max_tokens": 12, "temperature": sampling.temperature, "seed": 5}
    assert server.requests == [wanted]


def test_an_address_may_end_as_it_likes(server: ChatServer, model: LocalAnswerer) -> None:
    for ending in ("/", "/chat/completions"):
        assert endpoint(server, address=server.url + ending).answer(ASKED, SHORT, None).text
    assert "seed" not in server.requests[0]


@pytest.mark.parametrize(
    "faults", [["429 0"], ["429 0.05", "503"], ["drop"], ["500", "drop", "malformed"], ["408", "429", "502 0"]]
)
def test_what_passes_is_waited_for(server: ChatServer, model: LocalAnswerer, faults: list[str]) -> None:
    server.faults += faults
    assert endpoint(server).answer(ASKED, SHORT, None) == model.answer(ASKED, SHORT, None)
    assert server.faults == []
    assert len(server.requests) == 1


def test_retry_after_is_honoured(server: ChatServer) -> None:
    server.faults += ["429 1"]
    started = time.monotonic()
    endpoint(server).answer(ASKED, SHORT, None)
    assert time.monotonic() - started >= 1.0


def test_waits_grow_and_have_an_end(server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults += ["503"] * 20
    with pytest.raises(EdgepressError, match=r"503 .*7 tries in a row.*run the same command later"):
        endpoint(server).answer(ASKED, SHORT, None)
    assert len(server.faults) == 13
    said = " ".join(capsys.readouterr().err.split())
    waits = [float(part.split(" s")[0]) for part in said.split(" in ")[1:]]
    assert waits == pytest.approx([0.01 * 2**place for place in range(6)])


def test_a_wait_of_an_hour_is_left_to_the_user(server: ChatServer) -> None:
    server.faults += ["429 3600"]
    with pytest.raises(EdgepressError, match="asks to wait 3600 s"):
        endpoint(server).answer(ASKED, SHORT, None)


def test_nobody_waits_after_giving_up(server: ChatServer) -> None:
    server.faults += ["429 500"]
    asking = endpoint(server)
    asking.give_up()
    with pytest.raises(EdgepressError, match="given up"):
        asking.answer(ASKED, SHORT, None)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("404", r"status 404, no chat endpoint there or no model 'tiny' in it \(not now"),
        ("400", r"status 400, the request is refused \(not now"),
        ("302", "status 302, it has moved"),
        ("200 {}", r"an answer without choices\[0\]\.message\.content"),
        ("200 []", r"an answer without choices\[0\]\.message\.content"),
        ('200 {"choices": [{"text": "x"}]}', "is it a chat endpoint"),
        ('200 {"choices": [{"message": {"content": 3}}]}', "is it a chat endpoint"),
    ],
)
def test_what_does_not_pass_is_one_line(server: ChatServer, fault: str, message: str) -> None:
    server.faults += [fault]
    with pytest.raises(InputError, match=message) as caught:
        endpoint(server).answer(ASKED, SHORT, None)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_page_of_html_is_no_chat_endpoint(server: ChatServer) -> None:
    server.faults += ["200 <html>\n<body>hello"] * 2
    with pytest.raises(InputError, match=r"no JSON \('<html> <body>hello'\)"):
        endpoint(server).answer(ASKED, SHORT, None)


def test_a_wrong_key_and_none_are_told_apart(server: ChatServer) -> None:
    with pytest.raises(InputError, match="status 401, not allowed; check the key") as caught:
        endpoint(server, key="sk-wrong").answer(ASKED, SHORT, None)
    assert "sk-wrong" not in str(caught.value)
    with pytest.raises(InputError, match="name the variable that holds its key by --key-env"):
        endpoint(server, key=None).answer(ASKED, SHORT, None)


def test_the_key_is_not_said_while_waiting(server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults += ["503"]
    endpoint(server).answer(ASKED, SHORT, None)
    said = capsys.readouterr().err
    assert "your key is Bearer …" in " ".join(said.split())
    assert KEY not in said


def test_half_a_character_becomes_one_that_a_file_can_hold(server: ChatServer) -> None:
    server.faults += ['200 {"choices": [{"message": {"content": "a\\ud83dz \\ud83d\\ude00"}}]}']
    answer = endpoint(server).answer(ASKED, SHORT, None)
    assert answer.text == "a\N{REPLACEMENT CHARACTER}z \N{GRINNING FACE}"
    assert answer.finish == "unknown"


def test_an_answer_without_words_is_empty(server: ChatServer) -> None:
    server.faults += ['200 {"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}']
    answer = endpoint(server).answer(ASKED, SHORT, None)
    assert (answer.text, answer.finish) == ("", "content_filter")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://", "wanted an address"),
        ("http://127.0.0.1:99999/v1", "wanted an address"),
        ("http://a b/v1", "wanted an address"),
        ("http://a..b/v1", "wanted an address"),
        ("https://me:secret@host:80x/v1", "wanted an address"),
        ("https://me:secret@host/v1", "carries a name, a password or a query"),
        ("https://host/v1?key=secret", "carries a name, a password or a query"),
    ],
)
def test_addresses_that_are_none_or_hold_secrets_are_refused(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ChatEndpoint(address, "tiny")
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_tried_and_named(server: ChatServer) -> None:
    address = server.url
    server.http.server_close()
    with pytest.raises(EdgepressError, match=r"no reply \(.*refused.*7 tries"):
        endpoint(server, address=address).answer(ASKED, SHORT, None)


def test_a_key_that_no_header_carries_is_refused() -> None:
    with pytest.raises(InputError, match="line break") as caught:
        ChatEndpoint("http://127.0.0.1:1/v1", "tiny", key="sk-1\nX: y")
    assert "sk-1" not in str(caught.value)


def test_a_wait_is_seconds_or_a_date() -> None:
    assert asked_wait_s("7") == 7
    assert asked_wait_s("-7") == 0
    assert asked_wait_s(None) is asked_wait_s("soon") is asked_wait_s("nan") is None
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
    assert asked_wait_s(date) == pytest.approx(90, abs=2)


def test_a_teacher_of_files(tmp_path: Path) -> None:
    """The helper's models do end their answers, or the tests above would show less than they seem to."""
    with answering(make_teacher_dir(tmp_path / "model")) as model:
        words = ("one", "two", "three", "four", "five", "six", "seven", "eight")
        ends = {model.answer([{"role": "user", "content": word}], Sampling(tokens=40), None).finish for word in words}
    assert "stop" in ends
