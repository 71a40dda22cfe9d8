"""What onnxruntime-genai reads beside the graph: ``genai_config.json`` and the tokenizer's files.

``model.type`` is Hugging Face's ``model_type``: both name the supported families alike. An answer ends at any id that
``generation_config.json``, ``config.json`` or the tokenizer calls the end; some chat models name the end of a turn in
the tokenizer alone. ``search.max_length`` is the model's context and what the key-value cache is allocated for; an
application that needs less lowers it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgepress.artifact.plan import ModelPlan
from edgepress.errors import InputError
from edgepress.export.onnx.qdq import SESSION_OPTIONS
from edgepress.runtime.text import TextCodec

CONFIG_FILE = "genai_config.json"
MODEL_FILE = "model.onnx"

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "generation_config.json",
)

# Sampling fields that a model may bring in generation_config.json, with what holds otherwise (greedy).
_SEARCH_DEFAULTS: dict[str, Any] = {
    "do_sample": False,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}


def tokenizer_files(directory: Path) -> list[Path]:
    """The files that are copied beside the graph, those that exist."""
    return [directory / name for name in _TOKENIZER_FILES if (directory / name).is_file()]


def genai_config(plan: ModelPlan) -> bytes:
    """The content of ``genai_config.json``.

    Raises:
        InputError: no end-of-text id, or one outside the vocabulary.
    """
    generation = _generation(plan)
    ends = _end_ids(plan, generation)
    pad = generation.get("pad_token_id")
    bos = generation.get("bos_token_id")
    document = {
        "model": {
            "bos_token_id": ends[0] if bos is None else bos,
            "context_length": plan.spec.context,
            "decoder": _decoder(plan),
            "eos_token_id": ends[0] if len(ends) == 1 else ends,
            "pad_token_id": ends[0] if pad is None else pad,
            "type": plan.config["model_type"],
            "vocab_size": plan.spec.vocab,
        },
        "search": _search(plan, generation),
    }
    return (json.dumps(document, indent=4) + "\n").encode()


def _session_options(plan: ModelPlan) -> dict[str, str]:
    return SESSION_OPTIONS if any(tensor.input_format != "float" for tensor in plan.tensors) else {}


def _decoder(plan: ModelPlan) -> dict[str, Any]:
    first = plan.spec.layers[0]
    return {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": [], **_session_options(plan)},
        "filename": MODEL_FILE,
        "head_size": plan.spec.head_dim,
        "hidden_size": plan.spec.hidden,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": first.heads,
        "num_hidden_layers": len(plan.spec.attending),  # read as the number of key-value caches, and for nothing else
        "num_key_value_heads": first.kv_heads,
    }


def _search(plan: ModelPlan, generation: dict[str, Any]) -> dict[str, Any]:
    sampling = {
        name: default if generation.get(name) is None else generation[name]
        for name, default in _SEARCH_DEFAULTS.items()
    }
    # onnxruntime-genai refuses to sample from more tokens than there are.
    sampling["top_k"] = min(int(sampling["top_k"]), plan.spec.vocab)
    fixed = {
        "diversity_penalty": 0.0,
        "early_stopping": True,
        "length_penalty": 1.0,
        "max_length": plan.spec.context,
        "min_length": 0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
    }
    return dict(sorted((fixed | sampling).items()))


def _generation(plan: ModelPlan) -> dict[str, Any]:
    """``config.json`` overlaid with ``generation_config.json``, where that says something."""
    path = plan.tokenizer_dir / "generation_config.json"
    if not path.is_file():
        return dict(plan.config)
    try:
        generation = json.loads(path.read_text(encoding="utf-8"))
        return dict(plan.config) | {key: value for key, value in generation.items() if value is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as a JSON object ({error})") from error


def _end_ids(plan: ModelPlan, generation: dict[str, Any]) -> list[int]:
    configured = generation.get("eos_token_id")
    ends = [] if configured is None else list(configured) if isinstance(configured, list) else [configured]
    if (plan.tokenizer_dir / "tokenizer.json").is_file():
        ends += sorted(TextCodec(plan.tokenizer_dir).stop_ids - set(ends))
    if not ends:
        raise InputError(f"{plan.tokenizer_dir}: no eos_token_id; add it to generation_config.json or config.json")
    for end in ends:
        if not isinstance(end, int) or not 0 <= end < plan.spec.vocab:
            raise InputError(f"eos_token_id {end!r} is not an id of the vocabulary of {plan.spec.vocab}")
    return ends
