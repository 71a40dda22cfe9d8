"""``edgepress answers``: asked once, whatever happens; sifted with every drop accounted for; nothing kept of a key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asked_teacher import KEY, PROMPTS, QUICK, ask, make_place, make_teacher  # noqa: F401
from chat_server import ChatServer, answering, serving
from commands import Finished, edgepress, program
from killed_runs import Run, Runner
from one_core import one_core  # noqa: F401

from edgepress.compress.distill.text import read_windows
from edgepress.runtime.answering import LocalAnswerer, Sampling
from edgepress.runtime.text import TextCodec

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module")
def model(teacher: Path) -> Iterator[LocalAnswerer]:
    with answering(teacher) as answerer:
        yield answerer


@pytest.fixture
def server(model: LocalAnswerer) -> Iterator[ChatServer]:
    with serving(model, KEY) as running:
        yield running


def ask_server(server: ChatServer, *options: str, out: str = "answers.jsonl") -> Finished:
    return ask(server.url, "--model", "tiny", "--key-env", "TEACHER_KEY", *options, out=out)


def read(name: str) -> list[Any]:
    return [json.loads(line) for line in Path(name).read_text("utf-8").splitlines()]


def test_what_is_kept_is_what_the_model_says(teacher: Path, model: LocalAnswerer) -> None:
    record = ask(teacher, "--json").json()
    wanted = []
    for prompt in PROMPTS:
        answer = model.answer([{"role": "user", "content": prompt}], Sampling(tokens=24), None)
        if answer.finish == "stop" and answer.text.strip():
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer.text}]
            wanted.append({"messages": turns})
    assert read("answers.jsonl") == wanted
    assert record["kept"] == len(wanted) > 0
    assert record["dropped"]["cut_off"] > 0
    assert record["kept"] + sum(record["dropped"].values()) == record["answers"] == len(PROMPTS)
    assert json.loads(Path("answers.report.json").read_text("utf-8")) == record


def test_an_endpoint_gives_the_same_file_in_any_order(server: ChatServer, teacher: Path) -> None:
    server.faults += ["429 0", "drop", "malformed"]
    assert ask_server(server, "--at-once", "3").code == 0
    assert ask(teacher, out="local.jsonl").code == 0
    assert Path("answers.jsonl").read_bytes() == Path("local.jsonl").read_bytes()
    assert len(server.requests) == len(PROMPTS)


def test_distillation_takes_the_file(teacher: Path) -> None:
    assert ask(teacher).code == 0
    text = read_windows(TextCodec(teacher), ("answers.jsonl",), 8)
    assert text.learned.any()


def test_a_line_separator_in_an_answer_ends_no_line(server: ChatServer, teacher: Path) -> None:
    said = json.dumps({"choices": [{"message": {"content": "one\u2028two\u0085three"}, "finish_reason": "stop"}]})
    server.faults += [f"200 {said}"] * len(PROMPTS)
    assert ask_server(server, "--near", "1").code == 0
    assert {line["messages"][-1]["content"] for line in read("answers.jsonl")} == {"one\u2028two\u0085three"}


def test_a_killed_run_asks_for_the_rest_alone_and_ends_in_the_same_bytes(server: ChatServer, place: Path) -> None:
    assert ask_server(server, "--at-once", "1", out="whole.jsonl").code == 0
    del server.requests[:]
    server.faults += ["", "", "", "hang"]
    command = ["answers", "prompts.txt", "--teacher", server.url, "--model", "tiny", "--key-env", "TEACHER_KEY"]
    command += ["-o", "answers.jsonl", *QUICK, "--at-once", "1"]
    with subprocess.Popen(
        [*program(), *command], stderr=subprocess.DEVNULL, env=os.environ | {"TEACHER_KEY": KEY}
    ) as run:
        assert server.hanging.wait(120)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    assert not (place / "answers.jsonl").exists()
    raw = place / "answers.raw.jsonl"
    raw.write_bytes(raw.read_bytes()[:-5])  # as if it had been killed within a line
    done = ask_server(server, "--at-once", "1")
    assert done.code == 0, done.err
    assert "2 of 8 answers are there already" in done.err
    assert [request["messages"][0]["content"] for request in server.requests] == [*PROMPTS[:3], *PROMPTS[2:]]
    for ending in ("jsonl", "raw.jsonl", "report.json"):
        assert (place / f"answers.{ending}").read_bytes() == (place / f"whole.{ending}").read_bytes()


def test_killed_before_any_change_of_the_disk_a_local_run_ends_in_the_same_bytes(teacher: Path, tmp_path: Path) -> None:
    def run(name: str, kill_at: int | None = None) -> Run:
        home = tmp_path / name
        options = ("--teacher", str(teacher), *QUICK, "--per-prompt", "2", "--temperature", "1", "--engine", "torch")
        command = ("answers", str(tmp_path / "prompts.txt"), "-o", str(home / "answers.jsonl"), *options)
        return Run(command, cache=str(tmp_path / "cache"), root=str(home), kill_at=kill_at)

    def files(name: str) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}

    with Runner() as runner:
        undisturbed = runner.perform(run("undisturbed"))[0]
        assert undisturbed.code == 0, undisturbed.err
        for moment in range(1, len(undisturbed.changes) + 1):
            killed, ended = runner.perform(run(f"k{moment}", moment), run(f"k{moment}"))
            assert (killed.code, ended.code) == (-signal.SIGKILL, 0), ended.err
            assert files(f"k{moment}") == files("undisturbed")
    assert len(undisturbed.changes) >= 5


def test_sifting_in_another_way_asks_nothing(server: ChatServer) -> None:
    assert ask_server(server).code == 0
    first, asked = len(read("answers.jsonl")), len(server.requests)
    longest = max(len(line["messages"][-1]["content"].strip()) for line in read("answers.jsonl"))
    record = ask_server(server, "--max-chars", str(longest - 1), "--json").json()
    assert len(server.requests) == asked
    assert record["kept"] < first
    assert record["dropped"]["too_long"] == first - record["kept"]
    assert record["filter"]["max_chars"] == longest - 1


def test_answers_stay_with_their_prompts_when_the_file_changes(server: ChatServer) -> None:
    assert ask_server(server).code == 0
    before = {line["messages"][0]["content"]: line for line in read("answers.jsonl")}
    Path("prompts.txt").write_text("\n".join(["Something new?", *PROMPTS[3:], PROMPTS[4]]), encoding="utf-8")
    record = ask_server(server, "--json").json()
    assert len(server.requests) == len(PROMPTS) + 1
    assert (record["prompts"], record["prompts_repeated"]) == (6, 1)
    after = {line["messages"][0]["content"]: line for line in read("answers.jsonl")}
    assert {words: line for words, line in after.items() if words in before} == {
        words: line for words, line in before.items() if words in PROMPTS[3:]
    }


def test_of_several_sampled_answers_one_is_kept(teacher: Path) -> None:
    options = ("--per-prompt", "3", "--temperature", "1", "--json")
    record = ask(teacher, *options, "--seed", "4").json()
    raw = read("answers.raw.jsonl")[1:]
    assert len({entry["text"] for entry in raw}) > len(PROMPTS)
    assert len(read("answers.jsonl")) == record["kept"] <= len(PROMPTS)
    assert record["kept"] + sum(record["dropped"].values()) == 3 * len(PROMPTS)
    said = {entry["text"] for entry in raw if entry["finish"] == "stop"}
    assert all(line["messages"][-1]["content"] in said for line in read("answers.jsonl"))
    assert ask(teacher, *options, "--seed", "4", out="again.jsonl").json() == record
    assert Path("again.raw.jsonl").read_bytes() == Path("answers.raw.jsonl").read_bytes()
    assert ask(teacher, *options, "--seed", "5", out="other.jsonl").code == 0
    assert read("other.raw.jsonl")[1:] != raw


def test_conversations_and_system_messages_are_asked_as_they_are(server: ChatServer) -> None:
    own = [{"role": "system", "content": "Be a fox."}, {"role": "user", "content": "Who?"}]
    longer = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    lines = [{"prompt": "Plain?"}, {"messages": own}, {"messages": longer}]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    options = ("--model", "tiny", "--key-env", "TEACHER_KEY", "--system", "Be brief.", "--at-once", "1", *QUICK)
    edgepress("answers", "prompts.jsonl", "--teacher", server.url, "-o", "answers.jsonl", *options)
    brief = {"role": "system", "content": "Be brief."}
    asked = [request["messages"] for request in server.requests]
    assert asked == [[brief, {"role": "user", "content": "Plain?"}], own, [brief, *longer]]


def test_the_key_is_in_no_file_and_no_message(server: ChatServer, place: Path) -> None:
    server.faults += ["503"]
    done = ask_server(server)
    assert done.code == 0
    assert KEY not in done.out + done.err
    assert not [file for file in place.iterdir() if KEY.encode() in file.read_bytes()]


def test_what_is_dropped_is_said(teacher: Path) -> None:
    done = ask(teacher)
    record = json.loads(Path("answers.report.json").read_text("utf-8"))
    lines = ", ".join(map(str, record["dropped_prompts"]["cut_off"]))
    assert f"dropped: {record['dropped']['cut_off']} cut off (line {lines})" in done.err


def test_where_nothing_is_left_the_answers_stay_and_no_file_says_otherwise(teacher: Path, place: Path) -> None:
    assert ask(teacher).code == 0
    done = ask(teacher, "--min-chars", "100000")
    assert done.code == 1
    assert "none of 8 answers is left" in done.err
    assert "too_short" in done.err
    assert not (place / "answers.jsonl").exists()
    assert ask(teacher).code == 0


def test_an_endpoint_that_fails_on_the_way_loses_nothing(server: ChatServer, place: Path) -> None:
    server.faults += ["", "", "400"]
    message = ask_server(server, "--at-once", "1").error()
    assert message.startswith("prompts.txt:3: http://127.0.0.1")
    assert "status 400" in message
    assert len(read("answers.raw.jsonl")) == 1 + 2
    assert ask_server(server).code == 0
    assert len(server.requests) == len(PROMPTS)


def test_with_several_under_way_a_failure_loses_none_of_the_others(server: ChatServer) -> None:
    server.faults += ["", "400"]
    assert ask_server(server, "--at-once", "4").code == 2
    assert len(read("answers.raw.jsonl")) - 1 == len(server.requests) < len(PROMPTS)
