"""A teacher behind an OpenAI-compatible endpoint: POST <address>/chat/completions, an answer a request.

    {"model", "messages", "max_tokens", "temperature", "seed" where one is given}
    → {"choices": [{"message": {"content"}, "finish_reason"}]}

Nothing but text comes back. What is no chat endpoint is said to be none, with the beginning of what it answered.
"""

from __future__ import annotations

import json
from typing import Any

from edgepress.errors import InputError
from edgepress.progress import say
from edgepress.runtime.answering import Answer, Messages, Sampling
from edgepress.runtime.http_post import JsonPost, Reply, checked_url

_PATH = "/chat/completions"
_UNREADABLE_TRIES = 2  # a reply that was cut on its way is rare, and a page of HTML will stay one


class ChatEndpoint:
    """A model behind an endpoint; see :class:`~edgepress.runtime.answering.Answerer`."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        at_once: int = 4,
        timeout_s: float = 300.0,
        first_wait_s: float = 1.0,
    ) -> None:
        """Take an endpoint; nothing is asked yet.

        Args:
            url: its address, up to and with ``/v1``.
            model: one of its models.
            key: what it asks for, if anything.
            at_once: requests that may be under way.
            timeout_s, first_wait_s: see :class:`~edgepress.runtime.http_post.JsonPost`.

        Raises:
            InputError: the address is none, or the key cannot be sent.
        """
        self.at_once, self._model, self._has_key = at_once, model, key is not None
        if key is not None and not (key.isascii() and key.isprintable()):
            raise InputError("the key has a line break or another sign that no header can carry; set the variable anew")
        address = endpoint_address(url)
        if key is not None and address.startswith("http:") and checked_url(address).hostname not in _LOOPBACK:
            say(f"note: {address} is not encrypted, and the key is sent to it")
        self._post = JsonPost(address + _PATH, key, timeout_s=timeout_s, first_wait_s=first_wait_s)

    def check(self, messages: Messages) -> None:
        """See :class:`~edgepress.runtime.answering.Answerer`; the endpoint knows."""

    def answer(self, messages: Messages, sampling: Sampling, seed: int | None) -> Answer:
        """See :class:`~edgepress.runtime.answering.Answerer`.

        Raises:
            InputError: the key, the model or the request is refused, or this is no chat endpoint.
            EdgepressError: it does not answer.
        """
        request: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "max_tokens": sampling.tokens,
            "temperature": sampling.temperature,
        }
        if seed is not None:
            request["seed"] = seed
        for _ in range(_UNREADABLE_TRIES):
            reply = self._post(request)
            self._refuse_status(reply)
            try:
                document = json.loads(reply.body)
            except (ValueError, RecursionError):
                continue
            return self._read(document)
        raise InputError(
            f"{self._post.url}: answers with something that is no JSON ({self._post.readable(reply.body)!r}); is it a "
            "chat endpoint?"
        )

    def give_up(self) -> None:
        """End the waiting between tries."""
        self._post.give_up()

    def _refuse_status(self, reply: Reply) -> None:
        status, url = reply.status, self._post.url
        if 200 <= status < 300:
            return
        if status in (401, 403):  # what it says about the key is not passed on
            remedy = "check the key" if self._has_key else "name the variable that holds its key by --key-env"
            raise InputError(f"{url}: status {status}, not allowed; {remedy}")
        said = self._post.readable(_error_message(reply.body))
        if status == 404:
            raise InputError(f"{url}: status 404, no chat endpoint there or no model {self._model!r} in it ({said})")
        if status < 400:
            raise InputError(f"{url}: status {status}, it has moved; give the new address")
        raise InputError(f"{url}: status {status}, the request is refused ({said})")

    def _read(self, document: Any) -> Answer:
        try:
            choice = document["choices"][0]
            text, finish = choice["message"].get("content"), choice.get("finish_reason")
            if not isinstance(text, str | None) or not isinstance(finish, str | None):
                raise TypeError
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            said = self._post.readable(_error_message(json.dumps(document).encode()))
            raise InputError(
                f"{self._post.url}: an answer without choices[0].message.content ({said}); is it a chat endpoint?"
            ) from error
        return Answer(text=_whole_characters(text or ""), finish=finish or "unknown")


_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def endpoint_address(url: str) -> str:
    """An endpoint's address without what every request adds to it.

    Raises:
        InputError: it is none.
    """
    checked_url(url)
    return url.rstrip("/").removesuffix(_PATH)


def _error_message(body: bytes) -> bytes:
    """The server's own words, where it says them as the protocol has it; else all of it."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return body
    return message.encode("utf-8", errors="replace") if isinstance(message, str) else body


def _whole_characters(text: str) -> str:
    """Halves of surrogate pairs, which no UTF-8 file can hold, become the replacement character."""
    return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")
