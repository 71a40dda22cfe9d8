"""Labels of the files that llama.cpp quantized itself, and where they lie in an output directory."""

from __future__ import annotations

PEER = "llama.cpp"  # their directory
_PREFIX = f"{PEER}-"


def peer_label(mixture: str) -> str:
    """The label of ``llama.cpp/<mixture>.gguf``."""
    return _PREFIX + mixture


def is_peer(label: str) -> bool:
    """Whether a label is one of these."""
    return label.startswith(_PREFIX)


def peer_title(label: str) -> str:
    """How such a label is written on the page."""
    return f"{PEER} {label.removeprefix(_PREFIX)}"
