"""A worker that ends well hands its result over; one that dies is explained in one line."""

from __future__ import annotations

import sys

import msgspec
import pytest

from edgepress.benchmarks.launch import run_worker
from edgepress.benchmarks.records import PeakMemory, Scenario
from edgepress.benchmarks.worker import DepthSamples, Failure, Message, Progress, Result, WorkerRequest
from edgepress.errors import EdgepressError, InputError

REQUEST = WorkerRequest(engine="llama.cpp", path="model.gguf", scenario=Scenario())
RESULT = Result(
    engine="llama.cpp",
    engine_version="1",
    threads=1,
    load_ms=1.0,
    memory=PeakMemory(
        peak_rss_bytes=3,
        start_rss_bytes=1,
        peak_anonymous_bytes=None,
        peak_file_bytes=None,
        engine_weights_bytes=1,
        engine_kv_cache_bytes=1,
    ),
    depths=(DepthSamples(depth=0, prefill_ns=(1,), token_ns=((1, 2),)),),
)


def _python(*lines: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", "\n".join(lines))


def _printing(*messages: Message) -> str:
    return f"print({chr(10).join(msgspec.json.encode(message).decode() for message in messages)!r}, flush=True)"


def test_the_request_goes_in_and_progress_and_result_come_out() -> None:
    advanced: list[int] = []
    check = f"import sys; assert sys.stdin.read() == {msgspec.json.encode(REQUEST).decode()!r}"
    command = _python(check, "print('a banner of the engine')", _printing(Progress(), Progress(), RESULT))
    assert run_worker(REQUEST, advanced.append, command) == RESULT
    assert sum(advanced) == 2


def test_a_measured_process_does_not_inherit_the_huge_pages_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
    for value, there in ((ours, False), ("glibc.malloc.check=0", True)):
        monkeypatch.setenv("GLIBC_TUNABLES", value)
        check = f"import os; assert ('GLIBC_TUNABLES' in os.environ) is {there}"
        assert run_worker(REQUEST, command=_python(check, _printing(RESULT))) == RESULT


@pytest.mark.parametrize(
    ("name", "hint"),
    [("SIGKILL", "lack of memory"), ("SIGILL", "another processor"), ("SIGSEGV", "crashed"), ("SIGUSR1", "messages")],
)
def test_a_signal_is_named_with_what_it_suggests(name: str, hint: str) -> None:
    command = _python("import os, signal", f"os.kill(os.getpid(), signal.{name})")
    with pytest.raises(EdgepressError) as caught:
        run_worker(REQUEST, command=command)
    message = str(caught.value)
    assert name in message
    assert hint in message
    assert "MiB were free" in message
    assert "\n" not in message
    assert caught.value.exit_code == 1


def test_an_unexpected_exception_is_told_by_its_last_line() -> None:
    command = _python("import sys", "sys.stdin.read()", "raise RuntimeError('cannot allocate 3 GB')")
    with pytest.raises(
        EdgepressError, match="code 1 and no result; its last words: RuntimeError: cannot allocate 3 GB"
    ):
        run_worker(REQUEST, command=command)


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (1, EdgepressError)])
def test_a_refusal_keeps_its_words_and_its_exit_code(code: int, kind: type[EdgepressError]) -> None:
    command = _python(_printing(Failure(message="context 9 exceeds 8", exit_code=code)), f"raise SystemExit({code})")
    with pytest.raises(EdgepressError, match=r"^context 9 exceeds 8$") as caught:
        run_worker(REQUEST, command=command)
    assert type(caught.value) is kind


def test_a_result_followed_by_a_crash_is_no_result() -> None:
    command = _python("import os", _printing(RESULT), "os.abort()")
    with pytest.raises(EdgepressError, match="SIGABRT"):
        run_worker(REQUEST, command=command)
