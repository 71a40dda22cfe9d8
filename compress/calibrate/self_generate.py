"""Text that the student writes itself, as calibration data.

Idea: activations on a model's own samples represent what it will meet in use, without any data. Each stream opens with
the chat template up to where the user's words begin, so that the model invents the question and then the answer; when
it ends its turn, the next opening follows. Models without a template start from their first special token or a line
break. Streams are sampled at temperature 1 from the 50 likeliest tokens, all at once as a batch with a shared cache.
Where the processor multiplies bfloat16 natively the model runs in it, in half the memory and time: a sampled text needs
no more precision.

Sources: Williams et al., "Self-calibration for language model quantization and pruning" (arXiv 2410.17170); the opening
by the bare template is Magpie's (arXiv 2406.08464).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.bfloat16 import has_native_bfloat16
from edgepress.progress import progress
from edgepress.runtime.session import return_freed_memory
from edgepress.runtime.text import TextCodec

GENERATION_VERSION = 1
_TOP_K = 50
_CACHE_BUDGET_BYTES = 190 << 20


def streams_at_once(source: WeightSource, length: int) -> int:
    """How many streams fit the cache budget; at least 4, at most 64."""
    per_stream = source.spec.kv_cache_bytes(length, weight_bytes())
    return int(np.clip(_CACHE_BUDGET_BYTES // per_stream, 4, 64))


def generate_windows(source: WeightSource, codec: TextCodec, samples: int, length: int, seed: int) -> NDArray[np.int32]:
    """Sample windows from the student, int32, (samples, length)."""
    import torch

    from edgepress.runtime.torch_reference import load_model

    model = load_model(source, torch.bfloat16 if has_native_bfloat16() else torch.float32)
    opening = codec.user_opening()
    generator = torch.Generator().manual_seed(seed)
    width = streams_at_once(source, length)
    windows: list[NDArray[np.int32]] = []
    with torch.inference_mode(), progress("calibration text", samples * length) as advance:
        while len(windows) < samples:
            count = min(width, samples - len(windows))
            stream = _Streams(count, opening, codec.stop_ids)
            windows += list(_sample(model, stream, length, generator, advance))
    del model
    return_freed_memory()
    return np.stack(windows)


def weight_bytes() -> int:
    """Bytes of a weight, and of a cached value, while the student writes."""
    return 2 if has_native_bfloat16() else 4


class _Streams:
    """The openings still to be fed to each stream of a batch."""

    def __init__(self, count: int, opening: list[int], stop_ids: frozenset[int]) -> None:
        self.pending = [list(opening) for _ in range(count)]
        self._opening = opening
        self._stop_ids = stop_ids

    def next_tokens(self, sampled: list[int]) -> list[int]:
        """What each stream is fed: the rest of its opening, else what was sampled."""
        fed = [self.pending[i].pop(0) if self.pending[i] else token for i, token in enumerate(sampled)]
        for i, token in enumerate(fed):
            if not self.pending[i] and token in self._stop_ids and token not in self._opening:
                self.pending[i] = list(self._opening)
        return fed


def _sample(model: Any, streams: _Streams, length: int, generator: Any, advance: Any) -> NDArray[np.int32]:
    import torch
    from transformers import StaticCache

    tokens = streams.next_tokens([0] * len(streams.pending))
    rows = [tokens]
    # Allocated once: a cache that grows by concatenation fragments the memory and slows down with its length.
    cache = StaticCache(config=model.config, max_cache_len=length)
    for _ in range(length - 1):
        batch = torch.tensor(tokens)[:, None]
        output = model(batch, past_key_values=cache, use_cache=True)
        top, ids = output.logits[:, -1].float().topk(min(_TOP_K, output.logits.shape[-1]))
        choice = torch.multinomial(top.softmax(-1), 1, generator=generator)
        tokens = streams.next_tokens(ids.gather(1, choice)[:, 0].tolist())
        rows.append(tokens)
        advance(len(tokens))
    return np.asarray(rows, np.int32).T
