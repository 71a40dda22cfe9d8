"""V/O rotation: an orthogonal mixture of each head's values, undone by the output projection.

    o_q (a v) = (o_q Rᵀ) (a (R v))            for every query head q of a key-value head, R orthogonal

Attention weighs whole value vectors, so R passes through it; a bias of v turns along. Mixing spreads a loud feature
over its head, which makes the columns of o, and cached values, more alike. R is a Hadamard matrix with random signs
where the head's size is a power of two, diag(±1) · H / √d, and else a random orthogonal matrix. The signs matter, and
their place: llama.cpp turns quantized caches by a plain H, which would undo H, and leave of H · diag(±1) the signs
alone. One R serves all heads.

Source: R₂ of SpinQuant (Liu et al., arXiv 2405.16406), without its training.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import LINEARS, layer_name
from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.folding import DerivedModel, Floats

Matrix = NDArray[np.float64]
_SEED = 0


def rotation(size: int, seed: int = _SEED) -> Matrix:
    """R of the module docstring, (size, size)."""
    rng = np.random.default_rng(seed)
    if size & (size - 1) == 0:
        signed: Matrix = rng.choice([-1.0, 1.0], (size, 1)) * _hadamard(size) / np.sqrt(size)
        return signed
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    orthogonal: Matrix = q * np.sign(np.diag(r))
    return orthogonal


def _hadamard(size: int) -> Matrix:
    """Sylvester's matrix of signs; ``size`` is a power of two."""
    matrix: Matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def rotate_rows(values: Floats, matrix: Matrix) -> Floats:
    """R times the rows of each head: (heads · size, …), the same shape, computed in float64."""
    heads = values.astype(np.float64).reshape(-1, len(matrix), values[0].size)
    return (matrix @ heads).reshape(values.shape).astype(np.float32)


def rotate_columns(weight: Floats, matrix: Matrix) -> Floats:
    """The columns of each head times Rᵀ: (rows, heads · size)."""
    heads = weight.astype(np.float64).reshape(len(weight), -1, len(matrix))
    return (heads @ matrix.T).reshape(weight.shape).astype(np.float32)


class RotatedModel(DerivedModel):
    """A model with its values rotated; tensors are turned as they are read."""

    def __init__(self, source: WeightSource, matrix: Matrix) -> None:
        super().__init__(source)
        self._matrix = matrix
        layers = range(source.spec.depth)
        self._makers = {layer_name(i, LINEARS["attn_v"], leaf) for i in layers for leaf in ("weight", "bias")}
        self._readers = {layer_name(i, LINEARS["attn_output"]) for i in layers}

    def read(self, name: str) -> Floats:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        values = self._source.read(name)
        if name in self._makers:
            return rotate_rows(values, self._matrix)
        return rotate_columns(values, self._matrix) if name in self._readers else values

    def digest(self) -> str:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        return hashlib.sha256(self._source.digest().encode() + self._matrix.tobytes()).hexdigest()


def rotate_v_o(source: WeightSource) -> RotatedModel:
    """The model with the values of every head rotated."""
    return RotatedModel(source, rotation(source.spec.head_dim))
