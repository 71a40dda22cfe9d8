"""A model without weights that layers can be filled into, one at a time, and run on hidden states.

The skeleton (transformers' own model on the meta device) tells each layer's arguments: every layer is replaced by a
recorder that keeps the keyword arguments it is called with (rotary embeddings, masks: they depend on the family) and
returns its input. Then a real layer can be filled, run over all windows and emptied again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.activations import Activations
from edgepress.artifact.families import EMBEDDING, FINAL_NORM, LAYER
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.one_dnn import OneDnnLinears
from edgepress.runtime.session import trim_memory
from edgepress.runtime.torch_reference import build_skeleton, load_parameter, round_inputs

Floats = NDArray[np.float32]
TOKENS_PER_BATCH = 2048


class Skeleton:
    """A model's structure, and the windows that are run through it in batches."""

    def __init__(self, source: WeightSource, windows: NDArray[np.int32], *, half: bool = False) -> None:
        """``half``: the layers' linears may be bfloat16's, results and all, where that is faster (``one_dnn``)."""
        self.source, self.samples = source, len(windows)
        self._windows, self.linears = windows, OneDnnLinears(half=half)
        self._model = build_skeleton(source)
        self.layers: list[nn.Module] = list(self._model.model.layers)
        self._norm: nn.Module = self._model.model.norm
        per_batch = max(1, TOKENS_PER_BATCH // windows.shape[1])
        self.batches = [slice(start, start + per_batch) for start in range(0, len(windows), per_batch)]
        self._arguments: dict[tuple[int, int], dict[str, Any]] = {}

    @torch.no_grad()  # not inference_mode: what the layers are called with may take part in a backward pass
    def embed(self, embedding: Floats | None = None) -> torch.Tensor:
        """Hidden states before the first layer, (samples, length, hidden); by default of the source's embedding."""
        inner = self._model.model
        load_parameter(self._model, EMBEDDING, self.source.read(EMBEDDING) if embedding is None else embedding)
        recorders = [_Recorder(layer) for layer in self.layers]
        inner.norm, inner.layers = nn.Identity(), nn.ModuleList(recorders)
        hidden = torch.empty(*self._windows.shape, self.source.spec.hidden)
        for batch in self.batches:
            ids = torch.from_numpy(self._windows[batch].astype(np.int64))
            hidden[batch] = inner(input_ids=ids, use_cache=False).last_hidden_state
            for index, recorder in enumerate(recorders):
                self._arguments.setdefault((index, len(ids)), recorder.arguments)
        inner.norm, inner.layers = self._norm, nn.ModuleList(self.layers)
        # The weight alone: a family's scale of the embedding is a buffer, which a second call needs.
        inner.embed_tokens.weight = nn.Parameter(inner.embed_tokens.weight.to("meta"), requires_grad=False)
        return hidden

    def read_layer(self, index: int) -> dict[str, Floats]:
        """A layer's tensors by Hugging Face name."""
        prefix = LAYER.format(i=index)
        return {name: self.source.read(name) for name in self.source.names if name.startswith(prefix)}

    def fill(self, index: int, tensors: dict[str, Floats]) -> nn.Module:
        """Put tensors into a layer."""
        for name, value in tensors.items():
            load_parameter(self._model, name, value)
        return self.layers[index]

    def run(self, layer: nn.Module, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """A batch through a layer; ``layer`` may be a copy of layer ``index``."""
        with self.linears:
            output = layer(hidden, **self._arguments[index, len(hidden)])
        return output if isinstance(output, torch.Tensor) else output[0]

    @contextmanager
    def rounded_inputs(self, activations: Activations) -> Iterator[None]:
        """Linears round their inputs by static scales while the block runs."""
        handles = round_inputs(self._model, activations.scales, activations.format)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def release(self, index: int) -> None:
        """Empty a layer."""
        self.layers[index].to("meta")
        trim_memory()

    def final_norm(self, values: Floats | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
        """The norm before the head, filled; by default with the source's."""
        load_parameter(self._model, FINAL_NORM, self.source.read(FINAL_NORM) if values is None else values)
        return self._norm


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
