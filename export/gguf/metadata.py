"""The model's hyperparameters as GGUF metadata: the keys that llama.cpp reads, under the names that it gives them.

The keys and their order are those of llama.cpp's own converter for the same configuration, so that files can be
compared key by key. Nothing here depends on the date, the machine or a path.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from edgepress.artifact.families import is_matrix
from edgepress.artifact.plan import ModelPlan
from edgepress.artifact.spec import ModelSpec

# Format → the file type that llama.cpp prints, by its number (enum llama_ftype); K types by their plain "S" mixes.
_FILE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q3_K": 11,
    "q4_K": 14,
    "q5_K": 16,
    "q6_K": 18,
    "iq4_nl": 25,
    "iq4_xs": 30,
}


def add_metadata(writer: Any, plan: ModelPlan) -> None:
    """Add everything but the tokenizer to a ``gguf.GGUFWriter``."""
    import gguf

    spec = plan.spec
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(plan.name)
    writer.add_size_label(gguf.size_label(plan.parameters, plan.parameters, 0, 0))
    _add_shape(writer, spec)
    _add_rope(writer, spec)
    window = next((layer.window for layer in spec.layers if layer.window), None)
    if window is not None:
        writer.add_sliding_window(window)
    writer.add_file_type(_file_type(plan))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_shape(writer: Any, spec: ModelSpec) -> None:
    first = spec.layers[0]
    writer.add_block_count(spec.depth)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(first.ffn if spec.uniform else [layer.ffn for layer in spec.layers])
    writer.add_head_count(first.heads if spec.uniform else [layer.heads for layer in spec.layers])
    writer.add_head_count_kv(first.kv_heads if spec.uniform else [layer.kv_heads for layer in spec.layers])
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_vocab_size(spec.vocab)


def _add_rope(writer: Any, spec: ModelSpec) -> None:
    # llama3 scaling travels as the tensor rope_freqs.weight, not as metadata.
    import gguf

    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(spec.rope.theta)
    if spec.rope_local is not None:
        writer.add_rope_freq_base_swa(spec.rope_local.theta)
    if spec.rope.scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(spec.rope.factor)


def _file_type(plan: ModelPlan) -> int:
    """The file type of the format that most values of the matrices ship in."""
    values: Counter[str] = Counter()
    for tensor in plan.tensors:
        if is_matrix(tensor.name):
            values[tensor.format] += tensor.values
    return _FILE_TYPES[max(values, key=lambda name: (values[name], name))]
