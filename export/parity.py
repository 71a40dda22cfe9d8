"""The parity gate: an exported file must reproduce the checkpoint in its own engine, or it is not shipped.

Two checks. The integers: each exporter reads its file back, unpacks it and compares to the bit (``verify_gguf``,
``verify_onnx``). The logits, here: the mean KL divergence of the engine's next-token distributions from those of the
torch reference over the *same dequantized weights*, with inputs rounded to int8 where the checkpoint has static scales
for them. What remains is the engine's arithmetic: float16 keys and values for float formats; for quantized formats both
engines also round activations to 8 bits, which costs up to a few thousandths on a 100 M model. Static int8 inputs
magnify the rounding of sums, since a value at the middle between two levels goes either way: about a third of what
they cost at all. A graph for TensorRT is multiplied in float32 there: unless its inputs are rounded, it keeps a bound
of its own. A wrong permutation, norm or rotation costs whole nats.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.formats import get_format
from edgepress.artifact.tensorrt_layout import is_tensorrt, read_layout
from edgepress.errors import ParityError
from edgepress.runtime.locate import ModelFile, open_session
from edgepress.runtime.session import Logits
from edgepress.runtime.text import TextCodec

FLOAT_BOUND = 1e-4
QUANTIZED_BOUND = 0.05
STANDARD_BOUND = 1e-3
_TOKENS = 192
_STATIC_HINT = (
    " (static activations that lose much also magnify the rounding of sums: try another 'smooth' or 'clip', or "
    "another format for the linears with the loudest inputs, as a rule *.ffn_down)"
)

# Letters, digits, code, accents, another script: enough variety to exercise the whole vocabulary path.
_TEXT = (
    "The lighthouse keeper wrote 1,024 letters between 1987 and 2003, and answered none of them himself. "
    "def mean(values):\n    return sum(values) / len(values)\n"
    "Señora Müller naïvely ordered crème brûlée; 東京 was 9,135 km away. It's what they'd have wanted, wasn't it?\n"
)


class ParityResult(msgspec.Struct, frozen=True, kw_only=True):
    """Mean KL divergence engine against reference, in nats, and the bound that it kept."""

    engine: str
    kld_mean: float
    bound: float
    tokens: int


class ParityReference(msgspec.Struct, frozen=True, kw_only=True):
    """The reference's logits, float32 (tokens, vocab), computed once for all exports of a checkpoint."""

    tokens: list[int]
    logits: Logits


def parity_reference(checkpoint: Checkpoint) -> ParityReference:
    """Run the torch reference over the gate's tokens."""
    from edgepress.runtime.torch_reference import TorchSession

    spec = checkpoint.spec
    encoded = [token for token in TextCodec(checkpoint.directory).encode(_TEXT * 4, special=True) if token < spec.vocab]
    tokens = encoded[: min(_TOKENS, spec.context)]
    with TorchSession(checkpoint) as session:
        return ParityReference(tokens=tokens, logits=session.prefill(tokens))


def check_logits(model: ModelFile, checkpoint: Checkpoint, reference: ParityReference) -> ParityResult:
    """Compare an exported file's logits with the reference's.

    Raises:
        ParityError: the divergence exceeds the bound, or a logit is not finite.
    """
    context = read_layout(model.path).context if is_tensorrt(model.path) else checkpoint.spec.context
    tokens = reference.tokens[:context]
    with open_session(model, context=min(context, max(256, len(tokens)))) as session:
        logits = session.prefill(tokens)
    kld = mean_divergence(reference.logits[: len(tokens)], logits)
    floats = all(get_format(checkpoint.format(name)).kind == "float" for name in checkpoint.names)
    bound = FLOAT_BOUND if floats else STANDARD_BOUND if is_tensorrt(model.path) else QUANTIZED_BOUND
    if not floats and checkpoint.activation_scales:
        bound = QUANTIZED_BOUND
    if not kld <= bound:
        raise ParityError(
            f"{model.path}: logits in {model.engine} differ from the reference: mean KL divergence {kld:.3g}, "
            f"bound {bound:g}; the file was not kept{_STATIC_HINT if checkpoint.activation_scales else ''}"
        )
    return ParityResult(engine=model.engine, kld_mean=kld, bound=bound, tokens=len(tokens))


def mean_divergence(reference: Logits, other: Logits) -> float:
    """Mean over positions of KL(reference ‖ other), in nats; logits are (positions, vocab)."""
    p, q = _log_softmax(reference), _log_softmax(other)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    total: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return total
