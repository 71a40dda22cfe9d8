"""A decoder as one ONNX graph for both prompt and decoding, in the layout of onnxruntime-genai.

    input_ids, attention_mask, past_key_values.{i}.{key,value}  →  logits, present.{i}.{key,value}

    h = s_e · E[ids]
    each layer:  h += [norm] W_o · GQA(rope(norm_q(W_q x)), rope(norm_k(W_k x)), W_v x),   x = norm(h)
                 h += [norm] W_d · (act(W_g x) ⊙ W_u x),                                     x = norm(h)
    logits = W_lm · norm(h)

Keys and values are (batch, kv_heads, tokens, head_dim), float32, each layer with its own kv_heads, which
onnxruntime-genai reads from the graph's inputs; ``i`` counts the layers that have attention. GroupQueryAttention
rotates (halves, not pairs), appends to the cache and masks; its ``local_window_size`` counts the query's own key, as
``LayerSpec.window`` does. q, k and v are one product where they have one format, float inputs and no norm of their own
(the CPU kernel refuses ``q_norm_weight``). It rotates heads of a multiple of 16 values only: others are rotated by an
operator of their own, to the positions that GroupQueryAttention gives: behind what the mask shows of the sequence
besides the tokens that come in. The addition of the residual is part of the norm after it.

Operators and names: facts from onnxruntime-genai's builder and onnxruntime's operator schemas.
"""

from __future__ import annotations

from collections.abc import Callable

from edgepress.artifact.families import EMBEDDING, FAMILIES, FINAL_NORM, HEAD, LINEARS, layer_name
from edgepress.artifact.plan import ModelPlan
from edgepress.artifact.spec import LayerSpec
from edgepress.export.onnx.graph import MICROSOFT, Graph, Piece, Value
from edgepress.export.onnx.linear import INT8_ACTIVATIONS, Matrix

_QKV = ("attn_q", "attn_k", "attn_v")
_CACHES = ("past_key_values", "present")

# The activation's operator; QuickGelu with alpha 1 is x · sigmoid(x).
_ACTIVATIONS: dict[str, Callable[[Graph, str, str], str]] = {
    "silu": lambda graph, x, output: graph.node("QuickGelu", [x], output, domain=MICROSOFT, alpha=1.0),
    "gelu_tanh": lambda graph, x, output: graph.node("Gelu", [x], output, approximate="tanh"),
}


def decoder_graph(plan: ModelPlan, *, accuracy_level: int = INT8_ACTIVATIONS) -> Graph:
    """The whole model's graph, from shapes and formats alone."""
    return _Decoder(plan, accuracy_level).build()


class _Decoder:
    """The residual stream runs through ``self._hidden``; ``self._added`` is what waits to be added to it."""

    def __init__(self, plan: ModelPlan, accuracy_level: int) -> None:
        self._graph = Graph()
        self._spec = plan.spec
        self._family = FAMILIES[plan.spec.family]
        self._tensors = {tensor.name: tensor for tensor in plan.tensors}
        self._accuracy_level = accuracy_level
        self._rotates_inside = plan.spec.head_dim % 16 == 0
        self._hidden = ""
        self._added: str | None = None

    def build(self) -> Graph:
        graph = self._graph
        self._declare_inputs()
        seqlens, total = self._mask_lengths()
        embedding = Matrix(graph, self._tensors, [EMBEDDING], "model.embed_tokens")
        self._hidden = self._embed(embedding)
        for i, layer in enumerate(self._spec.layers):
            if layer.heads:
                self._attention(i, layer, seqlens, total)
            self._feed_forward(i)
        normed = self._normed(FINAL_NORM, "/model/norm")
        head = embedding if self._spec.tied else Matrix(graph, self._tensors, [HEAD], "lm_head")
        head.product(normed, "logits", accuracy_level=self._accuracy_level)
        self._declare_outputs()
        return graph

    def _declare_inputs(self) -> None:
        inputs = self._graph.inputs
        inputs.append(Value(name="input_ids", dtype="int64", shape=("batch_size", "sequence_length")))
        inputs.append(Value(name="attention_mask", dtype="int64", shape=("batch_size", "total_sequence_length")))
        inputs.extend(self._cache("past_key_values", "past_sequence_length"))

    def _declare_outputs(self) -> None:
        shape = ("batch_size", "sequence_length", self._spec.vocab)
        self._graph.outputs.append(Value(name="logits", dtype="float32", shape=shape))
        self._graph.outputs.extend(self._cache("present", "total_sequence_length"))

    def _cache(self, prefix: str, length: str) -> list[Value]:
        """Keys and values of all layers with attention, (batch, kv_heads, tokens, head_dim)."""
        return [
            Value(
                name=f"{prefix}.{i}.{side}",
                dtype="float32",
                shape=("batch_size", self._spec.layers[index].kv_heads, length, self._spec.head_dim),
            )
            for i, index in enumerate(self._spec.attending)
            for side in ("key", "value")
        ]

    def _mask_lengths(self) -> tuple[str, str]:
        """Last position of each sequence, int32 (batch,), and the length of the longest, int32 scalar."""
        graph, mask = self._graph, "attention_mask"
        count = graph.node("ReduceSum", [mask, graph.integers(1)], "/mask/count", keepdims=0)
        last = graph.node("Sub", [count, graph.integers(1)], "/mask/last")
        size = graph.node("Shape", [mask], "/mask/size", start=1, end=2)
        longest = graph.node("Squeeze", [size], "/mask/longest")
        casts = [graph.node("Cast", [name], f"{name}_int32", to="int32") for name in (last, longest)]
        return casts[0], casts[1]

    def _embed(self, embedding: Matrix) -> str:
        rows = embedding.lookup("input_ids", "/model/embed_tokens")
        if self._spec.embedding_scale == 1.0:
            return rows
        scale = self._graph.scalar("embedding_scale", self._spec.embedding_scale)
        return self._graph.node("Mul", [rows, scale], "/model/embed_tokens/scaled")

    def _attention(self, i: int, layer: LayerSpec, seqlens: str, total: str) -> None:
        graph, place = self._graph, f"/layers.{i}/attn"
        x = self._normed(layer_name(i, "input_layernorm"), f"/layers.{i}/input_layernorm")
        rotary = self._rotary(layer) if self._rotates_inside else ("", "")
        place_in_cache = self._spec.attending.index(i)
        past, present = ([f"{name}.{place_in_cache}.{side}" for side in ("key", "value")] for name in _CACHES)
        attended = graph.node(
            "GroupQueryAttention",
            [*self._queries_keys_values(i, layer, x), *past, seqlens, total, *rotary],
            [f"{place}/gqa", *present],
            domain=MICROSOFT,
            num_heads=layer.heads,
            kv_num_heads=layer.kv_heads,
            scale=self._spec.attention_scale,
            local_window_size=layer.window or -1,
            do_rotary=int(self._rotates_inside),
            rotary_interleaved=0,
        )
        self._add(i, self._linear(i, "attn_output", attended), after="post_attention_layernorm")

    def _queries_keys_values(self, i: int, layer: LayerSpec, x: str) -> list[str]:
        """The first three inputs of the attention: packed into one, or apart."""
        names = [layer_name(i, LINEARS[role]) for role in _QKV]
        formats = {(self._tensors[name].format, self._tensors[name].input_format) for name in names}
        plain = self._rotates_inside and not self._family.qk_norm
        if plain and len(formats) == 1 and self._tensors[names[0]].input_format == "float":
            stack = Matrix(self._graph, self._tensors, names, f"model.layers.{i}.self_attn.qkv_proj")
            return [stack.product(x, f"/layers.{i}/attn/qkv", accuracy_level=self._accuracy_level), "", ""]
        q, k, v = (self._linear(i, role, x) for role in _QKV)
        if self._family.qk_norm:
            q = self._head_norm(i, "self_attn.q_norm", q, layer.heads)
            k = self._head_norm(i, "self_attn.k_norm", k, layer.kv_heads)
        if not self._rotates_inside:
            q, k = (self._rotated(i, x, layer, heads) for x, heads in ((q, layer.heads), (k, layer.kv_heads)))
        return [q, k, v]

    def _rotated(self, i: int, x: str, layer: LayerSpec, heads: int) -> str:
        """Queries or keys, (batch, tokens, heads · D), by their positions."""
        inputs = [x, self._graph.once("positions", self._positions), *self._rotary(layer)]
        return self._graph.node("RotaryEmbedding", inputs, f"{x}/rotated", domain=MICROSOFT, num_heads=heads)

    def _positions(self) -> str:
        """Of the tokens that come in, int64 (batch, tokens); a padded prompt starts at 0."""
        graph = self._graph
        count = graph.node("ReduceSum", ["attention_mask", graph.integers(1)], "/positions/count", keepdims=1)
        length = graph.node("Shape", ["input_ids"], "/positions/length", start=1, end=2)
        before = graph.node("Sub", [count, length], "/positions/before")
        first = graph.node("Max", [before, graph.integers(0)], "/positions/first")
        ones = graph.node("Expand", [graph.integers(1), length], "/positions/ones")
        steps = graph.node("CumSum", [ones, graph.integers(0)], "/positions/steps", exclusive=1)
        return graph.node("Add", [first, steps], "/positions")

    def _head_norm(self, i: int, part: str, x: str, heads: int) -> str:
        """Norm of each head by itself: (batch, tokens, heads · D) → (batch, tokens · heads, D) and back."""
        graph, size, place = self._graph, self._spec.head_dim, f"/layers.{i}/{part}"
        split = graph.node("Reshape", [x, graph.integers(0, -1, size)], f"{place}/split")
        normed = self._norm(split, layer_name(i, part), f"{place}/normed", size)
        return graph.node("Reshape", [normed, graph.integers(0, -1, heads * size)], place)

    def _feed_forward(self, i: int) -> None:
        graph, place = self._graph, f"/layers.{i}/mlp"
        name = "pre_feedforward_layernorm" if self._family.sandwich else "post_attention_layernorm"
        x = self._normed(layer_name(i, name), f"/layers.{i}/{name}/mlp")
        gate = self._linear(i, "ffn_gate", x)
        up = self._linear(i, "ffn_up", x)
        active = _ACTIVATIONS[self._spec.activation](graph, gate, f"{place}/active")
        gated = graph.node("Mul", [active, up], f"{place}/gated")
        self._add(i, self._linear(i, "ffn_down", gated), after="post_feedforward_layernorm")

    def _linear(self, i: int, role: str, x: str) -> str:
        part = LINEARS[role]
        matrix = Matrix(self._graph, self._tensors, [layer_name(i, part)], f"model.layers.{i}.{part}")
        return matrix.product(x, f"/layers.{i}/{part}", accuracy_level=self._accuracy_level)

    def _add(self, i: int, x: str, after: str) -> None:
        """Let x wait to be added to the residual stream, normalised first in the families that do so."""
        if self._family.sandwich:
            x = self._norm(x, layer_name(i, after), f"/layers.{i}/{after}", self._spec.hidden)
        self._added = x

    def _normed(self, name: str, output: str) -> str:
        """Add what waits to the residual stream, and return the stream's norm."""
        if self._added is None:
            return self._norm(self._hidden, name, output, self._spec.hidden)
        summed = f"{output}/residual"
        inputs = [self._hidden, self._added, self._gain(name, self._spec.hidden)]
        outputs = [output] if name == FINAL_NORM else [output, "", "", summed]
        self._hidden, self._added = summed, None
        return self._graph.node(
            "SkipSimplifiedLayerNormalization", inputs, outputs, domain=MICROSOFT, epsilon=self._spec.norm_eps
        )

    def _norm(self, x: str, name: str, output: str, size: int) -> str:
        inputs = [x, self._gain(name, size)]
        eps = self._spec.norm_eps
        return self._graph.node("SimplifiedLayerNormalization", inputs, output, axis=-1, epsilon=eps, stash_type=1)

    def _gain(self, name: str, size: int) -> str:
        return self._graph.stored(name, "float32", (size,), [Piece(tensor=name, part="gain")])

    def _rotary(self, layer: LayerSpec) -> tuple[str, str]:
        """The layer's cos and sin tables, float32 (context, head_dim / 2), shared by all layers that rotate alike."""
        graph, suffix = self._graph, "_local" if layer.local_rope else ""
        shape = (self._spec.context, self._spec.head_dim // 2)

        def table(part: str) -> str:
            name = f"{part}_cache{suffix}"
            piece = Piece(tensor="", part=f"{part}{suffix}")  # type: ignore[arg-type]
            return graph.once(name, lambda: graph.stored(name, "float32", shape, [piece]))

        return table("cos"), table("sin")
