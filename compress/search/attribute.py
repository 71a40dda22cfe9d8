"""The divergence that each tensor causes, as it ships.

To second order, and where the errors of different tensors are independent, a model's divergence comes apart by tensor:

    KLD_T = κ_role · c_T · e_T

e_T is the relative error of the tensor's output, which the solver recorded; c_T is what such an error costs
(``fisher``); and κ makes the tensors of a role sum to the true divergence of the model in which that role alone (the
queries of all layers, the down projections of all layers, …) is as it ships and everything else is the original's. An
embedding and an untied head are roles of one tensor: they are measured by themselves.

What roles do to each other is on no tensor's account, so the sum of all stands beside the divergence of all together;
nor is what distillation did to norms and biases, which the latter has as they ship. Rounded inputs (int8 activations)
are no tensor's either and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING, HEAD, LINEARS
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.skeleton import Floats
from edgepress.compress.quantize.layers import ERRORS_FILE
from edgepress.compress.quantize.solved import TensorError, relative_error
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.search.fisher import fisher_costs
from edgepress.compress.search.records import Attribution, TensorLoss
from edgepress.errors import InputError
from edgepress.progress import progress

_ROLES = {part: role for role, part in LINEARS.items()} | {EMBEDDING: "embedding", HEAD: "head"}


def attribute(roles: Mapping[str, float], costs: Mapping[str, float], errors: Mapping[str, float]) -> dict[str, float]:
    """Each tensor's part of its role's divergence, in proportion to c e.

    Args:
        roles: role → divergence in nats per token; a role that is not there lost nothing.
        costs: tensor → c; a tensor that is a role of its own needs none.
        errors: tensor → e; zero for tensors that ship as they were.
    """
    estimates = {name: costs.get(name, 1.0) * error for name, error in errors.items()}
    sums: dict[str, float] = {}
    for name, estimate in estimates.items():
        sums[role_of(name)] = sums.get(role_of(name), 0.0) + estimate
    factors = {role: roles.get(role, 0.0) / total if total > 0 else 0.0 for role, total in sums.items()}
    return {name: factors[role_of(name)] * estimate for name, estimate in estimates.items()}


def role_of(name: str) -> str:
    """The role of a matrix by its Hugging Face name: ``attn_q`` … ``ffn_down``, ``embedding``, ``head``."""
    return _ROLES[name] if name in _ROLES else _ROLES[name.removesuffix(".weight").split(".", 3)[3]]


def measure_attribution(
    source: WeightSource, checkpoint: Checkpoint, windows: NDArray[np.int32], seed: int
) -> Attribution:
    """Attribute a checkpoint's divergence.

    Args:
        source: the weights that the checkpoint's were rounded from.
        checkpoint: what ships.
        windows: int32, (samples, length); one or two thousand tokens that no solver has seen.
        seed: of the Fisher estimate's labels.

    Raises:
        InputError: a damaged checkpoint.
    """
    errors = shipped_errors(source, checkpoint)
    lossy = [name for name, error in errors.items() if error > 0]
    by_role: dict[str, list[str]] = {}
    for name in lossy:
        by_role.setdefault(role_of(name), []).append(name)
    costs = fisher_costs(source, windows, seed) if lossy else {}
    roles, together = _divergences(source, checkpoint, windows, by_role)
    parts = attribute(roles, costs, errors)
    return Attribution(
        tokens=windows.size,
        roles=roles,
        together_kld=together,
        tensors=tuple(TensorLoss(name=name, format=checkpoint.format(name), kld=kld) for name, kld in parts.items()),
    )


def shipped_errors(source: WeightSource, checkpoint: Checkpoint) -> dict[str, float]:
    """e of every matrix: as the solver recorded it (distillation: of the weights), zero for float32, and the weights'
    own relative error for float16.

    Raises:
        InputError: the record is damaged.
    """
    path = checkpoint.directory / ERRORS_FILE
    try:
        recorded = msgspec.json.decode(path.read_bytes(), type=tuple[TensorError, ...])
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path}: damaged checkpoint ({error})") from error
    known = {error.name: error.relative_error for error in recorded}
    return {
        name: known[name] if name in known else _plain_error(source, checkpoint, name)
        for name in checkpoint.names
        if len(checkpoint.shape(name)) == 2
    }


def _plain_error(source: WeightSource, checkpoint: Checkpoint, name: str) -> float:
    if checkpoint.format(name) == "f32":
        return 0.0
    return relative_error(source.read(name), checkpoint.read(name), None)


def _divergences(
    source: WeightSource, checkpoint: Checkpoint, windows: NDArray[np.int32], by_role: Mapping[str, list[str]]
) -> tuple[dict[str, float], float]:
    """Of every role alone, and of all together with norms and biases."""
    if not by_role:
        return {}, 0.0

    def shipped(names: set[str]) -> float:
        def change(name: str, values: Floats) -> Floats:
            return checkpoint.read(name) if name in names else values

        return max(0.0, divergence.of(change))  # rounding may take what is nothing below zero

    with progress("KL divergence by tensor", len(by_role) + 2) as advance:
        divergence = Divergence(source, windows)
        advance(1)
        roles = {}
        for role, names in by_role.items():
            roles[role] = shipped(set(names))
            advance(1)
        together = shipped(set(checkpoint.names))
        advance(1)
    return roles, together
