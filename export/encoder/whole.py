"""What stays float32 in a float16 encoder: norms, between casts.

In a strongly typed network the type of what a norm reads decides in which its squares are summed (NvInfer.h on
setComputePrecision), whatever its attribute ``stash_type`` says, and a value above 255 has a square beyond float16. So
norms read float32, with constants of their own: LayerNormalization, and RMS norms, which are traced as

    Pow(x, 2) or Mul(x, x) → ReduceMean → Add → Sqrt → Reciprocal → Mul with x, or Div of x

Their results are float16 again.
"""

from __future__ import annotations

from typing import Any

from edgepress.export.encoder.model import OnnxModel

_FLOAT, _HALF = 1, 10  # TensorProto.DataType
_NORM, _MEAN = "LayerNormalization", "ReduceMean"
_BEHIND_MEAN = {"Add", "Sqrt", "Reciprocal", "Pow", "Mul", "Div"}


def keep_norms_whole(model: OnnxModel) -> set[str]:
    """Put every norm between casts; names of the constants that stay float32, which nothing else reads."""
    whole = {node.output[0] for node in model.nodes if node.op_type == _NORM}
    for mean in model.nodes:
        if mean.op_type == _MEAN:
            whole |= _rms_norm(model, mean)
    return _Casts(model, whole).apply() if whole else set()


def _rms_norm(model: OnnxModel, mean: Any) -> set[str]:
    """Outputs of the operators around a mean of squares that make a norm; none where it is another mean."""
    square = next((node for node in model.nodes if mean.input[0] in node.output), None)
    if square is None or not _squares(model, square):
        return set()
    base, chain = square.input[0], [square, mean]
    while base not in chain[-1].input or chain[-1] is square:
        readers = model.readers(chain[-1].output[0])
        if len(readers) != 1 or readers[0].op_type not in _BEHIND_MEAN:
            break
        chain.append(readers[0])
    return {node.output[0] for node in chain}


def _squares(model: OnnxModel, node: Any) -> bool:
    if node.op_type == "Mul":
        return bool(node.input[0] == node.input[1])
    exponent = model.values(node.input[1]) if node.op_type == "Pow" else None
    return exponent is not None and exponent.size == 1 and float(exponent.item()) == 2


class _Casts:
    """Operators that compute in float32, by what they make, and the casts around them."""

    def __init__(self, model: OnnxModel, whole: set[str]) -> None:
        self._model, self._whole = model, whole
        self._nodes: list[Any] = []
        self._made: dict[str, str] = {}  # float32 form of a value
        self._constants: set[str] = set()

    def apply(self) -> set[str]:
        """Rewrite the graph; names of the float32 constants."""
        for node in self._model.nodes:
            if node.output[0] in self._whole:
                self._compute_whole(node)
            else:
                self._nodes.append(node)
        self._model.replace_nodes(self._nodes)
        return self._constants

    def _compute_whole(self, node: Any) -> None:
        model, result = self._model, node.output[0]
        outside = [each for each in model.readers(result) if each.output[0] not in self._whole]
        for place, name in enumerate(node.input):
            if name:
                node.input[place] = self._whole_form(name)
        node.output[0] = self._made[result] = f"{result}.whole"
        self._nodes.append(node)
        if outside or result in model.outputs:
            cast = model.node("Cast", [node.output[0]], result, to=_HALF)
            cast.name = f"{result}.narrowed"  # the graph's last cast may be called what makes its output
            self._nodes.append(cast)

    def _whole_form(self, name: str) -> str:
        if name in self._made:
            return self._made[name]
        values, form = self._model.values(name), f"{name}.whole"
        if values is not None and values.dtype.kind != "f":
            return name
        if values is None:
            self._nodes.append(self._model.node("Cast", [name], form, to=_FLOAT))
        else:
            self._constants.add(self._model.add(form, values))
        self._made[name] = form
        return form
