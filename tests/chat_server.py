"""An HTTP server on a port of its own that speaks the OpenAI chat protocol: a real model behind it, faults in front.

Each request takes the first of the faults; an empty one is none. A wrong key is always refused.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tiny_models import make_model_dir

from edgepress.compress.student.open import open_student
from edgepress.runtime.answering import Answerer, LocalAnswerer, Sampling
from edgepress.runtime.text import TextCodec
from edgepress.runtime.torch_reference import TorchSession

_END = 1  # <|im_end|>


def make_teacher_dir(directory: Path, *, seed: int = 0) -> Path:
    """A tiny random model whose answers come to an end: the token that ends them is three times as loud."""
    make_model_dir("llama", directory, seed=seed)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.embed_tokens.weight"][_END] *= np.float32(3)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@contextmanager
def answering(directory: Path) -> Iterator[LocalAnswerer]:
    """The model of a Hugging Face directory, as it answers in this process."""
    student = open_student(str(directory))
    with TorchSession(student, threads=1) as session:
        yield LocalAnswerer(session, TextCodec(student.tokenizer_dir))


class ChatServer:
    """The server; ``requests`` are the documents that came in and were not met by a fault."""

    def __init__(self, answerer: Answerer, key: str | None) -> None:
        self.requests: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.hanging, self.released = threading.Event(), threading.Event()
        self._answerer, self._key, self._lock = answerer, key, threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.handle(self)

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if request.path != "/v1/chat/completions":
            return _send(request, 404, {"error": {"message": f"no {request.path}"}})
        if self._key and request.headers.get("Authorization") != f"Bearer {self._key}":
            return _send(request, 401, {"error": {"message": f"wrong: {request.headers.get('Authorization')}"}})
        with self._lock:
            fault = self.faults.pop(0) if self.faults else ""
        if fault:
            return self._fail(request, fault)
        document = json.loads(body)
        with self._lock:
            self.requests.append(document)
            sampling = Sampling(tokens=document["max_tokens"], temperature=document["temperature"])
            answer = self._answerer.answer(document["messages"], sampling, document.get("seed"))
        message = {"role": "assistant", "content": answer.text}
        return _send(request, 200, {"choices": [{"index": 0, "message": message, "finish_reason": answer.finish}]})

    def _fail(self, request: BaseHTTPRequestHandler, fault: str) -> None:
        if fault == "hang":
            self.hanging.set()
            self.released.wait(60)
        elif fault == "drop":
            request.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "malformed":
            _send(request, 200, b'{"choices": [{"mess')
        elif fault.startswith("200 "):
            _send(request, 200, fault.removeprefix("200 ").encode())
        else:
            status, _, retry_after = fault.partition(" ")
            headers = {"Retry-After": retry_after} if retry_after else {}
            said = {"error": {"message": f"not now; your key is {request.headers.get('Authorization')}"}}
            _send(request, int(status), said, headers)


def _send(request: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


@contextmanager
def serving(answerer: Answerer, key: str | None = None) -> Iterator[ChatServer]:
    """A server while the block runs."""
    server = ChatServer(answerer, key)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()
