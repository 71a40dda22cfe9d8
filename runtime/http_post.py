"""One POST of JSON with a time-out and patience, for endpoints that are busy, restart or sit behind a bad line.

Tried again are 408, 429 and 5xx, broken connections and time-outs: after as long as Retry-After says, else after 1, 2,
4 … seconds, a minute at the most. No redirect is followed, since it could carry the key to another host, and no proxy
is used. The key appears in the one header and nowhere else: it is taken out of what a server says.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from edgepress.errors import EdgepressError, InputError
from edgepress.progress import say

_TRIES = 7
_LONGEST_BACKOFF_S, _LONGEST_WAIT_S = 60.0, 600.0
_LARGEST_REPLY_BYTES = 16 << 20
_SHOWN_CHARACTERS = 200


class Reply(NamedTuple):
    """What came back: the status, and the body's bytes."""

    status: int
    body: bytes


class _Setback(NamedTuple):
    """Why a try failed, and how long the server asks to wait; None where it does not say."""

    reason: str
    wait_s: float | None = None


class JsonPost:
    """Posts JSON documents to one address. Safe to call from several threads."""

    def __init__(self, url: str, key: str | None, *, timeout_s: float, first_wait_s: float = 1.0) -> None:
        """Take an address.

        Args:
            url: http or https.
            key: sent as a bearer token; None sends none.
            timeout_s: for connecting, and for each piece of the reply.
            first_wait_s: before the second try; doubles with each.

        Raises:
            InputError: the address is none, or carries a name, a password or a query.
        """
        self.url = url
        self._parts = checked_url(url)
        self._key, self._timeout_s, self._first_wait_s = key, timeout_s, first_wait_s
        self._given_up, self._said = threading.Event(), ""

    def __call__(self, document: Any) -> Reply:
        """Post a document; the reply may have any status that another try would not change.

        Raises:
            InputError: the host does not exist, or its certificate is not trusted.
            EdgepressError: no reply after all tries, or waiting was given up.
        """
        body = json.dumps(document).encode()
        outcome = self._try(body)
        for number in range(1, _TRIES):
            if isinstance(outcome, Reply):
                break
            self._wait(outcome, number)
            outcome = self._try(body)
        if isinstance(outcome, Reply):
            return outcome
        raise EdgepressError(
            f"{self.url}: {outcome.reason}, {_TRIES} tries in a row; what was answered is kept: "
            "run the same command later to go on"
        )

    def give_up(self) -> None:
        """End all waiting between tries."""
        self._given_up.set()

    def readable(self, body: bytes) -> str:
        """The beginning of a body for a message: on one line, without the key."""
        text = " ".join(body.decode("utf-8", errors="replace").split())
        return self._without_key(text)[:_SHOWN_CHARACTERS]

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text

    def _try(self, body: bytes) -> Reply | _Setback:
        try:
            reply, retry_after = self._post(body)
        except ssl.SSLCertVerificationError as error:
            raise InputError(f"{self.url}: its certificate is not trusted ({error.verify_message})") from error
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                return _Setback(f"the name could not be looked up ({error.strerror})")
            raise InputError(f"{self.url}: no such host ({error.strerror}); check the address") from error
        except (OSError, http.client.HTTPException) as error:
            return _Setback(f"no reply ({self._without_key(str(error)) or type(error).__name__})")
        if reply.status in (408, 429) or reply.status >= 500:
            said = self.readable(reply.body)
            return _Setback(f"status {reply.status}{f' ({said})' if said else ''}", asked_wait_s(retry_after))
        return reply

    def _post(self, body: bytes) -> tuple[Reply, str | None]:
        host, port, path = str(self._parts.hostname), self._parts.port, self._parts.path
        connection = (
            http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=ssl.create_default_context())
            if self._parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        )
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            data = response.read(_LARGEST_REPLY_BYTES + 1)
        finally:
            connection.close()
        if len(data) > _LARGEST_REPLY_BYTES:
            raise InputError(f"{self.url}: a reply of more than {_LARGEST_REPLY_BYTES >> 20} MiB; no chat endpoint?")
        return Reply(response.status, data), response.headers.get("Retry-After")

    def _wait(self, setback: _Setback, number: int) -> None:
        backoff_s = min(self._first_wait_s * 2 ** (number - 1), _LONGEST_BACKOFF_S)
        wait_s = backoff_s if setback.wait_s is None else setback.wait_s
        if wait_s > _LONGEST_WAIT_S:
            raise EdgepressError(
                f"{self.url}: {setback.reason}, and asks to wait {wait_s:.0f} s; what was answered is kept: run the "
                "same command then to go on"
            )
        note = f"{self.url}: {setback.reason}; try {number + 1} of {_TRIES} in {wait_s:.3g} s"
        if note != self._said:  # several requests often meet with the same
            self._said = note
            say(note)
        if self._given_up.wait(wait_s):
            raise EdgepressError(f"{self.url}: {setback.reason}; given up")


def checked_url(url: str) -> Any:
    """The parts of an address.

    Raises:
        InputError: it is none, or carries a name, a password, a query or a fragment, which would be written to files.
    """
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        str(parts.hostname).encode("idna")
    except ValueError:  # UnicodeError among them: a label of a name that is empty or too long
        whole = False
    if not whole or not url.isascii() or any(sign.isspace() for sign in url):
        shown = "the teacher's address" if "@" in url or "?" in url else repr(url)  # those may hide a secret
        raise InputError(f"{shown}: wanted an address such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise InputError(
            "the teacher's address carries a name, a password or a query, which would end in files; give the bare "
            "address, and a key by --key-env"
        )
    return parts


def asked_wait_s(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None where it says nothing readable."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None
