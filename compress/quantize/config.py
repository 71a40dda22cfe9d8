"""The ``quantize`` step of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgepress.artifact.plan import ActivationFormat
from edgepress.compress.bounds import Natural

Solver = Literal["nearest", "scale_search", "gptaq"]
Clip = Literal["minmax", "mse"]
Strength = Annotated[float, msgspec.Meta(ge=0, le=1)]
Preparation = Literal["fold_norms", "scale_up_down", "scale_v_o", "rotate_v_o", "awq"]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]  # infinite budgets are none


class QuantizeStep(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step", tag="quantize"
):
    """Store the weights in fewer bits.

    solver      nearest: round by ggml's rule. scale_search: scales that minimise the error weighted by the activations.
                gptaq: codes and scales that minimise the error of each layer's output, given the layers before it
    format      of the layers' matrices
    embedding   of the embedding and the head; ``format`` when absent
    formats     pattern → format, for single tensors; the first pattern that matches wins. Patterns see Hugging Face
                names without ".weight" (model.layers.3.mlp.down_proj) and role names (*.ffn_down, token_embd)
    fallback    the format for tensors that the chosen one does not fit; without it, such a tensor is an error. With a
                budget: also for those that no choice fits; these take f16 where neither fallback nor choices are given
    prepare     what is done first, in this order; changes the numbers that get rounded and not the model's function.
                scale_up_down, scale_v_o: even out the columns of down and of the output projection through the rows of
                up and of the values. awq: finer steps for loud features behind a norm, by its gain (looks at the
                calibration text). rotate_v_o: mix the values of each head. fold_norms: norm gains into the linears
    target_mb   choose the formats for a file of at most this many MB (10^6 bytes) in the recipe's first export target;
                ``format`` is then not used, while ``embedding`` and ``formats`` stay as they are given
    target_bpw  the same in bits per weight: the file's bits over the model's parameters
    max_kld     choose the formats for the smallest file whose KL divergence from the student stays below this, in nats
                per token, on a held-out part of the calibration text
    target_ms   bound the predicted time of a decoded token in the model's matrices, in milliseconds, beside one of the
                three above; alone, choose the formats of least divergence within it
    costs       file of what each format costs the device, from ``edgepress costs``; target_ms goes by it
    choices     the formats to choose from; the usual ones of the export target when empty
    qad_tokens  once solved, train codes and scales on this many tokens so that the model comes closer to the student
                (distillation through the grids); held-out text decides what is kept, so never for the worse there.
                0: not. Needs about nine times the float32 weights in memory
    qad_samples windows of calibration text to train on, of which the solver sees ``samples``; those alone when 0
    activations int8, fp8: the layers' linears in that format also round their inputs to it, with static scales from the
                calibration text (W8A8; int8 for ONNX and TensorRT, fp8 for TensorRT). float: they stay as they are
    smooth      SmoothQuant's strength, 0 to 1: how much of the inputs' outliers moves into the weights; 0 moves nothing
    clip        where the static scales end. minmax: at the largest input seen. mse: where the output's error is least
    """

    solver: Solver = "scale_search"
    format: str = "q4_0"
    embedding: str | None = None
    formats: dict[str, str] = {}
    fallback: str | None = None
    prepare: tuple[Preparation, ...] = ()
    target_mb: Positive | None = None
    target_bpw: Positive | None = None
    max_kld: Positive | None = None
    target_ms: Positive | None = None
    costs: str | None = None
    choices: tuple[str, ...] = ()
    qad_tokens: Natural = 0
    qad_samples: Natural = 0
    activations: ActivationFormat = "float"
    smooth: Strength = 0.8
    clip: Clip = "minmax"

    @property
    def budgets(self) -> tuple[str, ...]:
        """Names of the budgets that are set, target_ms last; formats are chosen when there is one."""
        names = ("target_mb", "target_bpw", "max_kld", "target_ms")
        return tuple(name for name in names if getattr(self, name) is not None)
