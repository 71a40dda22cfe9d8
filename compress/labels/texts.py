"""Texts of labelling and of classifiers: a text a line, or JSONL.

*.jsonl {"text"}                             a text to label
*.jsonl {"text", "label"}                    a gold label, or a label without probabilities
*.jsonl {"text", "label", "probabilities"}   what the teacher said; "label" is its likeliest one
anything else                                a text a line
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.compress.calibrate.tokens import read_text, require_file
from edgepress.errors import InputError

Array = NDArray[np.float64]
_SUM_OFF = 1e-3


class Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """Texts with labels.

    names           of the labels
    texts           as they came
    labels          place of each text's label, (texts,)
    probabilities   the teacher's, (texts, names); None where the file has none
    uncalibrated    the same before calibration
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    labels: NDArray[np.intp]
    probabilities: Array | None = None
    uncalibrated: Array | None = None

    @property
    def hard(self) -> Array:
        """All probability on the label, (texts, names)."""
        found: Array = np.eye(len(self.names))[self.labels]
        return found

    def __getitem__(self, chosen: NDArray[Any]) -> Labelled:
        """Some of the texts, by a mask or by places."""
        places = np.arange(len(self.texts))[chosen]
        return Labelled(
            names=self.names,
            texts=tuple(self.texts[place] for place in places),
            labels=self.labels[places],
            probabilities=None if self.probabilities is None else self.probabilities[places],
            uncalibrated=None if self.uncalibrated is None else self.uncalibrated[places],
        )


def read_texts(path: Path) -> tuple[str, ...]:
    """All texts of a file, without space around them; what is empty stays, so that it can be counted.

    Raises:
        InputError: the file cannot be read, a line of a .jsonl has no text, or there is none at all.
    """
    require_file("texts", str(path))
    if path.suffix == ".jsonl":
        texts = tuple(entry["text"].strip() for entry, _ in _entries(path))
    else:
        texts = tuple(line.strip() for line in read_text(path).removesuffix("\n").split("\n"))
    if not any(texts):
        raise InputError(f"{path}: no text in it")
    return texts


def read_labelled(path: Path, names: tuple[str, ...] | None = None) -> Labelled:
    """Labelled texts.

    Args:
        path: JSONL.
        names: the labels that there may be; None takes those of the probabilities, or all in the file by the alphabet.

    Raises:
        InputError: the file cannot be read, a line is none of the kinds above, or a label is not one of ``names``.
    """
    require_file("labelled texts", str(path))
    entries = list(_entries(path))
    if not entries:
        raise InputError(f"{path}: no text in it")
    for entry, where in entries:
        if not isinstance(entry.get("label"), str):
            raise InputError(f'{where}: wanted {{"text": "…", "label": "…"}}')
    names = names or _names(entries)
    place = {name: at for at, name in enumerate(names)}
    for entry, where in entries:
        if entry["label"] not in place:
            raise InputError(f"{where}: label {entry['label'][:40]!r} is not one of {', '.join(names)}")
    return Labelled(
        names=names,
        texts=tuple(entry["text"].strip() for entry, _ in entries),
        labels=np.array([place[entry["label"]] for entry, _ in entries], np.intp),
        probabilities=_distributions(entries, "probabilities", names),
        uncalibrated=_distributions(entries, "uncalibrated", names),
    )


def _names(entries: list[tuple[dict[str, Any], str]]) -> tuple[str, ...]:
    first = entries[0][0].get("probabilities")
    names = tuple(first) if isinstance(first, dict) else tuple(sorted({entry["label"] for entry, _ in entries}))
    if len(names) < 2:
        raise InputError(f"{entries[0][1]}: one label only, {names[0]!r}; a classifier needs two")
    return names


def _distributions(entries: list[tuple[dict[str, Any], str]], field: str, names: tuple[str, ...]) -> Array | None:
    """A field's probabilities of all texts, or None where no text has them."""
    if not any(field in entry for entry, _ in entries):
        return None
    rows = [_distribution(entry.get(field), names, f"{where}: {field}") for entry, where in entries]
    found = np.array(rows, np.float64)
    normalised: Array = found / found.sum(axis=1, keepdims=True)
    return normalised


def _distribution(values: object, names: tuple[str, ...], where: str) -> list[float]:
    if isinstance(values, dict) and set(values) == set(names):
        row = [values[name] for name in names]
        numbers = all(isinstance(value, int | float) and math.isfinite(value) and value >= 0 for value in row)
        if numbers and abs(sum(row) - 1) < _SUM_OFF:
            return row
    raise InputError(f"{where}: wanted a probability for each of {', '.join(names)}, of sum 1")


def _entries(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """JSON objects with a text, and where each stands."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = json.loads(line)
            json.dumps(entry, ensure_ascii=False).encode()  # half of a pair of surrogates is no text
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error})") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise InputError(f'{where}: wanted {{"text": "…"}}')
        yield entry, where
