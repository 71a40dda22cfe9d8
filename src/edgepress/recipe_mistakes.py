"""A mistake in a recipe, told with what there is instead: from msgspec's message and the recipe's own types."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from edgepress.recipe_order import step_name

Record = type[msgspec.Struct]
Document = dict[str, Any]
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<field>[^`]*)`(?: - at `\$(?P<place>[^`]*)`)?")
_WRONG_CHOICE = re.compile(r"Invalid enum value .* - at `\$\.(?P<place>[^`]*)`")


def with_what_exists(message: str, document: Document, root: Record, steps: tuple[Record, ...]) -> str:
    """Add the fields that exist where an unknown one was found, and the choices where a wrong one was made.

    Args:
        message: of the validation that failed.
        document: what was validated.
        root: the record that it should be.
        steps: the records that ``compress`` may list.
    """
    if found := _UNKNOWN_FIELD.search(message):
        place = (found["place"] or "").lstrip(".")
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(_section(place, document, root, steps)))
        return f"unknown field {found['field']!r} at {place or 'the top'}; fields there: {known}"
    if found := _WRONG_CHOICE.search(message):
        place = found["place"]
        name = re.split(r"\[\d+\]$", place)[0].rpartition(".")[2]
        record = root if name == place.partition("[")[0] else _section(place, document, root, steps)
        return f"{_value_at(document, place)!r} at {place} is none of the choices: {', '.join(_choices(record, name))}"
    return message.replace("`$.", "`")


def _section(place: str, document: Document, root: Record, steps: tuple[Record, ...]) -> Record:
    """The record that a place such as ``compress[0]``, ``compress[1].loss`` or ``bench.depth`` lies in."""
    first, *names = place.split(".")
    if found := re.fullmatch(r"compress\[(\d+)\]", first):
        name = document["compress"][int(found[1])]["step"]
        record = next(step for step in steps if step_name(step) == name)
    else:
        record = _held_by(root, first)
    for name in names:
        record = _held_by(record, name)
    return record


def _held_by(record: Record, name: str) -> Record:
    """The record that a field holds; the one that it is in where it holds none."""
    kinds = [field.type for field in _fields(record) if field.encode_name == name]
    each = [one for kind in kinds for one in getattr(kind, "types", (kind,))]
    return next((one.cls for one in each if isinstance(one, msgspec.inspect.StructType)), record)


def _choices(record: Record, name: str) -> tuple[str, ...]:
    """The values that a field takes, from its type."""
    kind = next(field.type for field in _fields(record) if field.encode_name == name)
    kind = getattr(kind, "item_type", kind)
    return tuple(next(each.values for each in getattr(kind, "types", (kind,)) if hasattr(each, "values")))


def _fields(record: Record) -> Any:
    described: Any = msgspec.inspect.type_info(record)
    return described.fields


def _value_at(document: Any, place: str) -> Any:
    for key in re.findall(r"[^.\[\]]+", place):
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document
