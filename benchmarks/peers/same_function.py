"""Transforms of a layer that keep its function, in float64: what ``off_grid`` applies, one function for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import FAMILIES, LAYER, LINEARS, Family
from edgepress.artifact.spec import LayerSpec
from edgepress.artifact.weights import WeightSource

Array = NDArray[np.float64]
Tensors = dict[str, Array]

# Linears that read the output of a norm, by llama.cpp's name of that norm.
BEHIND = {"attn_norm": ("attn_q", "attn_k", "attn_v"), "ffn_norm": ("ffn_gate", "ffn_up")}


def stretch(rng: np.random.Generator, channels: int) -> Array:
    """Factors 2^U(-1/4, 1/4), (channels,)."""
    return np.exp2(rng.uniform(-0.25, 0.25, channels))


def orthogonal(rng: np.random.Generator, size: int) -> Array:
    """A uniformly distributed orthogonal matrix, (size, size)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(q * np.sign(np.diag(r)))


def rotate_rows(weight: Array, rotations: Array) -> Array:
    """Multiply head h's rows from the left by ``rotations[h]``; weight (heads·d, …), rotations (heads, d, d)."""
    heads, size, _ = rotations.shape
    rotated = np.einsum("hij,hjn->hin", rotations, weight.reshape(heads, size, -1))
    return np.asarray(rotated.reshape(weight.shape))


def rotate_columns(weight: Array, rotations: Array) -> Array:
    """Multiply head h's columns from the right by ``rotations[h]`` transposed; weight (rows, heads·d)."""
    return rotate_rows(weight.T, rotations).T


def pair_rotations(angles: Array) -> Array:
    """Rotations of the pairs (j, j + d/2) of each head by ``angles``, (heads, d/2) → (heads, d, d)."""
    heads, half = angles.shape
    blocks = np.zeros((heads, 2, half, 2, half))
    at = np.arange(half)
    blocks[:, 0, at, 0, at] = blocks[:, 1, at, 1, at] = np.cos(angles)
    blocks[:, 1, at, 0, at] = np.sin(angles)
    blocks[:, 0, at, 1, at] = -np.sin(angles)
    return blocks.reshape(heads, 2 * half, 2 * half)


def stretch_behind_norms(layer: Tensors, family: Family, rng: np.random.Generator) -> None:
    """Scale the input channels of the linears behind each norm, and divide the norm's gain by the same factors."""
    for norm, gguf in family.norms.items():
        if gguf not in BEHIND:
            continue
        factors = stretch(rng, layer[f"{norm}.weight"].size)
        gain = layer[f"{norm}.weight"] + family.norm_offset
        layer[f"{norm}.weight"] = gain / factors - family.norm_offset
        for role in BEHIND[gguf]:
            layer[f"{LINEARS[role]}.weight"] = layer[f"{LINEARS[role]}.weight"] * factors


def rotate_attention(layer: Tensors, shape: LayerSpec, head_dim: int, family: Family, rng: np.random.Generator) -> None:
    """Rotate values against the output projection, and rotary pairs of keys together with their queries."""
    queries_per_key = shape.heads // shape.kv_heads
    values = np.stack([orthogonal(rng, head_dim) for _ in range(shape.kv_heads)])
    pairs = pair_rotations(rng.uniform(0, 2 * np.pi, (shape.kv_heads, head_dim // 2)))
    output = f"{LINEARS['attn_output']}.weight"
    layer[output] = rotate_columns(layer[output], np.repeat(values, queries_per_key, axis=0))
    turned = {"attn_v": values}
    if not family.qk_norm:
        turned |= {"attn_k": pairs, "attn_q": np.repeat(pairs, queries_per_key, axis=0)}
    for role, rotations in turned.items():
        for name in _leaves(layer, role):
            layer[name] = rotate_rows(layer[name], rotations)


def stretch_ffn(layer: Tensors, rng: np.random.Generator) -> None:
    """Scale the rows of the up projection and divide the columns of the down projection by the same factors."""
    down = f"{LINEARS['ffn_down']}.weight"
    factors = stretch(rng, layer[down].shape[1])
    layer[down] = layer[down] / factors
    for name in _leaves(layer, "ffn_up"):
        layer[name] = (layer[name].T * factors).T


def permute_layer(layer: Tensors, residual: NDArray[np.intp], rng: np.random.Generator) -> None:
    """Reorder the residual channels, by ``residual``, and the feed-forward's inner channels, at random."""
    inner = rng.permutation(layer[f"{LINEARS['ffn_down']}.weight"].shape[1])
    rows = {"attn_output": residual, "ffn_down": residual, "ffn_gate": inner, "ffn_up": inner}
    columns = {"attn_q": residual, "attn_k": residual, "attn_v": residual, "ffn_gate": residual, "ffn_up": residual}
    for role, order in rows.items():
        for name in _leaves(layer, role):
            layer[name] = layer[name][order]
    for role, order in (columns | {"ffn_down": inner}).items():
        name = f"{LINEARS[role]}.weight"
        layer[name] = layer[name][:, order]
    for name, tensor in layer.items():
        if tensor.ndim == 1 and "_layernorm" in name:
            layer[name] = tensor[residual]


def _leaves(layer: Tensors, role: str) -> list[str]:
    """Names of a linear's weight and, where there is one, its bias."""
    return [name for leaf in ("weight", "bias") if (name := f"{LINEARS[role]}.{leaf}") in layer]


def move_layer(source: WeightSource, index: int, seed: int, residual: NDArray[np.intp] | None) -> Tensors:
    """The tensors of one layer after all transforms, float64, by full name; ``residual`` reorders the stream."""
    family = FAMILIES[source.spec.family]
    rng = np.random.default_rng([seed, 1 + index])
    prefix = LAYER.format(i=index)
    names = [name for name in source.names if name.startswith(prefix)]
    layer = {name.removeprefix(prefix): source.read(name).astype(np.float64) for name in names}
    stretch_behind_norms(layer, family, rng)
    rotate_attention(layer, source.spec.layers[index], source.spec.head_dim, family, rng)
    stretch_ffn(layer, rng)
    if residual is not None:
        permute_layer(layer, residual, rng)
    return {prefix + name: tensor for name, tensor in layer.items()}
