"""Run a model layer by layer over the calibration windows, holding one layer's weights at a time.

The skeleton (transformers' own model, without weights) tells each layer's arguments: every layer is replaced by a
recorder that keeps the keyword arguments it is called with (rotary embeddings, masks: they depend on the family) and
returns its input. Then the real layers are filled, run over all windows and emptied again, one after the other. Memory:
the hidden states of all windows, one layer, and one batch of activations; it does not grow with depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.families import EMBEDDING, FINAL_NORM, LAYER
from edgepress.artifact.weights import WeightSource
from edgepress.runtime.session import return_freed_memory
from edgepress.runtime.torch_reference import build_skeleton, load_parameter

Floats = NDArray[np.float32]
_TOKENS_PER_BATCH = 2048


class LayerVisit(msgspec.Struct, frozen=True, kw_only=True):
    """A layer's tensors, and the mean square of each input feature of its linears, by Hugging Face tensor name."""

    index: int
    tensors: dict[str, Floats]
    mean_square: dict[str, Floats]


class LayerWalk:
    """One pass over a model. Iterate :meth:`layers` to the end, then ask :meth:`head_mean_square`."""

    def __init__(self, source: WeightSource, windows: NDArray[np.int32]) -> None:
        self._source = source
        self._model = build_skeleton(source)
        self._layers = list(self._model.model.layers)
        per_batch = max(1, _TOKENS_PER_BATCH // windows.shape[1])
        self._batches = [slice(start, start + per_batch) for start in range(0, len(windows), per_batch)]
        self._arguments: dict[tuple[int, int], dict[str, Any]] = {}
        self._hidden = self._embed(windows)

    @torch.inference_mode()
    def layers(self) -> Iterator[LayerVisit]:
        """Visit the layers in order."""
        for index, layer in enumerate(self._layers):
            prefix = LAYER.format(i=index)
            tensors = {name: self._source.read(name) for name in self._source.names if name.startswith(prefix)}
            for name, value in tensors.items():
                load_parameter(self._model, name, value)
            sums, count = _MeanSquares(layer, prefix), 0
            for batch in self._batches:
                arguments = self._arguments[index, len(self._hidden[batch])]
                output = layer(self._hidden[batch], **arguments)
                self._hidden[batch] = output if isinstance(output, torch.Tensor) else output[0]
                count += self._hidden[batch].shape[0] * self._hidden.shape[1]
            yield LayerVisit(index=index, tensors=tensors, mean_square=sums.finish(count))
            layer.to("meta")
            return_freed_memory()

    @torch.inference_mode()
    def head_mean_square(self) -> Floats:
        """Mean square of each feature that the head sees (after the final norm), (hidden,)."""
        load_parameter(self._model, FINAL_NORM, self._source.read(FINAL_NORM))
        total = np.zeros(self._source.spec.hidden)
        for batch in self._batches:
            total += self._norm(self._hidden[batch]).square().sum((0, 1), dtype=torch.float64).numpy()
        return (total / (self._hidden.shape[0] * self._hidden.shape[1])).astype(np.float32)

    @torch.inference_mode()
    def _embed(self, windows: NDArray[np.int32]) -> torch.Tensor:
        """Embed all windows, and record what each layer is called with."""
        inner = self._model.model
        load_parameter(self._model, EMBEDDING, self._source.read(EMBEDDING))
        recorders = [_Recorder(layer) for layer in self._layers]
        self._norm, inner.norm = inner.norm, nn.Identity()
        inner.layers = nn.ModuleList(recorders)
        hidden = torch.empty(*windows.shape, self._source.spec.hidden)
        for batch in self._batches:
            ids = torch.from_numpy(windows[batch].astype(np.int64))
            hidden[batch] = inner(input_ids=ids, use_cache=False).last_hidden_state
            for index, recorder in enumerate(recorders):
                self._arguments.setdefault((index, len(ids)), recorder.arguments)
        inner.norm, inner.layers = self._norm, nn.ModuleList(self._layers)
        inner.embed_tokens.to("meta")
        return hidden


class _Recorder(nn.Module):
    """Stands in for a layer: keeps the keyword arguments of its last call and passes the hidden states through."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {}
        # Families tell sliding from full layers by attributes that the model's loop reads.
        plain = {key: value for key, value in vars(layer).items() if not key.startswith("_") and key != "training"}
        self.__dict__.update(plain)

    def forward(self, hidden_states: torch.Tensor, **arguments: Any) -> torch.Tensor:
        self.arguments = arguments
        return hidden_states


class _MeanSquares:
    """Sums the squares of each input feature of a layer's linears while it runs."""

    def __init__(self, layer: nn.Module, prefix: str) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._handles = [
            module.register_forward_pre_hook(self._hook(f"{prefix}{name}.weight"))
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        ]

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].flatten(0, -2).square().sum(0, dtype=torch.float64).numpy()
            self._sums[name] = self._sums.get(name, np.zeros_like(squares)) + squares

        return add

    def finish(self, count: int) -> dict[str, Floats]:
        """Take the hooks off; return the means over ``count`` tokens."""
        for handle in self._handles:
            handle.remove()
        return {name: (total / count).astype(np.float32) for name, total in self._sums.items()}
