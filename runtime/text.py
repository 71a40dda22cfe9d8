"""Text to tokens and back, and the chat template, from a Hugging Face tokenizer directory.

Uses the ``tokenizers`` library and a sandboxed Jinja2, so that a board needs no transformers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from edgepress.errors import InputError, require

_MARKER = "@@edgepress-user-text@@"
_GENERATION = re.compile(r"(\{%[-+]?)\s*(end)?generation(\s*[-+]?%\})")
_FALLBACK_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


class TextCodec:
    """A tokenizer with its chat template and the ids that end an answer."""

    def __init__(self, directory: Path) -> None:
        tokenizers = require("tokenizers", "gguf")
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise InputError(f"{directory}: no tokenizer.json here; save the model's fast tokenizer into it")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises a bare Exception
            raise InputError(f"{path}: cannot be read as a tokenizer ({error})") from error
        self._settings = _json(directory / "tokenizer_config.json")
        self._directory = directory
        self._generation = _json(directory / "config.json") | _json(directory / "generation_config.json")

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; with ``special`` the tokenizer adds what it adds to every text (a BOS, for some)."""
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, tokens: list[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token → id, added tokens included."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    @property
    def bos(self) -> int | None:
        """The token that this tokenizer puts before every text, if any."""
        ids = self.encode("a", special=True)
        plain = self.encode("a", special=False)
        return ids[0] if len(ids) > len(plain) and ids[0] != plain[0] else None

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: the EOS of the tokenizer and of the configuration."""
        found: set[int] = set()
        eos = self._settings.get("eos_token")
        token = eos.get("content") if isinstance(eos, dict) else eos
        if isinstance(token, str) and (known := self._tokenizer.token_to_id(token)) is not None:
            found.add(known)
        configured = self._generation.get("eos_token_id")
        found.update(configured if isinstance(configured, list) else [] if configured is None else [configured])
        return frozenset(found)

    @property
    def template(self) -> str | None:
        """The chat template's Jinja source."""
        file = self._directory / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self._settings.get("chat_template")
        if isinstance(template, list):  # named templates; "default" is the one for chatting
            template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
        return template

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's answer."""
        return self.encode(self.render(messages, answer=True), special=self.template is None)

    def render(self, messages: list[dict[str, str]], *, answer: bool) -> str:
        """The conversation as the template writes it.

        Raises:
            InputError: the template fails on these messages.
        """
        return render_template(self.template or _FALLBACK_TEMPLATE, messages, self._special_tokens(), answer=answer)

    def user_opening(self) -> list[int]:
        """What stands before a user's first words, as token ids; never empty."""
        if self.template is not None:
            text = self.render([{"role": "user", "content": _MARKER}], answer=False).split(_MARKER)[0]
            if text:
                return self.encode(text, special=False)
        return [self.bos] if self.bos is not None else self.encode("\n", special=False)

    def _special_tokens(self) -> dict[str, str]:
        named = {key: value for key, value in self._settings.items() if key.endswith("_token")}
        return {
            key: str(value["content"] if isinstance(value, dict) else value) for key, value in named.items() if value
        }


def render_template(template: str, messages: list[dict[str, str]], tokens: dict[str, str], *, answer: bool) -> str:
    """Render a chat template in a sandbox, as transformers does.

    Raises:
        InputError: the template is broken or refuses the messages.
    """
    sandbox = require("jinja2.sandbox", "gguf")
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise InputError(f"the chat template refuses this conversation: {message}")

    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda _format: "01 Jan 2026"
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False} | options)
    try:
        rendered = environment.from_string(_without_generation_blocks(template)).render(
            messages=messages, add_generation_prompt=answer, tools=None, **tokens
        )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the chat template cannot be rendered: {error}") from error
    return str(rendered)


def _without_generation_blocks(template: str) -> str:
    """Blocks that mark what the assistant said, for training, as blocks of no effect; dashes and all."""
    return _GENERATION.sub(lambda tag: f"{tag[1]} {'endif' if tag[2] else 'if true'}{tag[3]}", template)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    return document if isinstance(document, dict) else {}
