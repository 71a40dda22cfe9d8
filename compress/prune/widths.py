"""How many units each layer keeps: the same share everywhere, or what a budget over all layers makes best."""

from __future__ import annotations

from edgepress.compress.prune.obs import Units
from edgepress.compress.search.allocate import allocate
from edgepress.errors import InputError


def uniform_counts(units: list[Units], keep: float, what: str) -> list[int]:
    """The nearest count to ``keep`` of each layer that is a multiple of the step.

    Raises:
        InputError: a layer would keep nothing, or has a width that is no multiple; says what can be asked for.
    """
    found = []
    for index, layer in enumerate(units):
        steps = round(layer.count * keep / layer.step)
        if keep < 1 and steps == 0:
            raise InputError(
                f"{what}: keep {keep:g} leaves nothing of the {layer.count} of layer {index}; they go in steps of "
                f"{layer.step}: ask for at least {layer.step / layer.count:.3g}"
            )
        found.append(min(layer.count, steps * layer.step) if keep < 1 else layer.count)
    return found


def allocated_counts(units: list[Units], losses: list[list[float]], total: int) -> list[int]:
    """The counts of least total loss that keep at most ``total`` units.

    Args:
        units: of each layer.
        losses: of each layer with k · step units gone, k = 0, 1, …
        total: units of all layers together.
    """
    table = {str(i): {str(k): loss for k, loss in enumerate(row)} for i, row in enumerate(losses)}
    sizes = {
        str(i): {str(k): layer.count - k * layer.step for k in range(len(row))}
        for i, (layer, row) in enumerate(zip(units, losses, strict=True))
    }
    chosen = allocate(table, sizes, float(total))
    return [layer.count - int(chosen[str(i)]) * layer.step for i, layer in enumerate(units)]
