"""Where a point's label goes, so that labels cover neither each other nor a point.

Greedy: points from left to right, each takes the first of six places whose box meets the least of what is there. Boxes
are those of a narrow window; in a wider one points only move apart.
"""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, y downwards

_TEXT_HEIGHT, _CHARACTER, _REACH = 17.0, 6.8, 7.0
_PLACES = ("middle right", "middle left", "top right", "bottom right", "top left", "bottom left")


def place_labels(points: Sequence[tuple[float, float]], labels: Sequence[str], frame: tuple[float, float]) -> list[str]:
    """Plotly's ``textposition`` for each point.

    Args:
        points: in pixels from the left top corner of the frame.
        labels: one per point.
        frame: width and height of the frame in pixels.
    """
    taken: list[Box] = [(x - _REACH, y - _REACH, x + _REACH, y + _REACH) for x, y in points]
    places = [""] * len(points)
    for index in sorted(range(len(points)), key=lambda index: points[index]):
        boxes = [_box(points[index], labels[index], place) for place in _PLACES]
        others = [box for at, box in enumerate(taken) if at != index]
        costs = [_outside(box, frame) + sum(_shared(box, other) for other in others) for box in boxes]
        best = costs.index(min(costs))
        places[index] = _PLACES[best]
        taken.append(boxes[best])
    return places


def _box(point: tuple[float, float], label: str, place: str) -> Box:
    vertical, horizontal = place.split()
    width = len(label) * _CHARACTER
    left = point[0] + _REACH if horizontal == "right" else point[0] - _REACH - width
    drop = {"top": -_REACH - _TEXT_HEIGHT, "middle": -_TEXT_HEIGHT / 2, "bottom": _REACH}[vertical]
    return left, point[1] + drop, left + width, point[1] + drop + _TEXT_HEIGHT


def _shared(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _outside(box: Box, frame: tuple[float, float]) -> float:
    """Area that the frame cuts off, counted more than covered neighbours."""
    inside = _shared(box, (0.0, 0.0, *frame))
    return 4 * ((box[2] - box[0]) * (box[3] - box[1]) - inside)
