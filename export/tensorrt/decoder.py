"""A decoder as one strongly typed graph of standard operators for prompts and decoding, for TensorRT.

    input_ids, position_ids, attention_mask, past_key_values.{i}.{key,value}  →  logits, present.{i}.{key,value}

    h = s_e · E[ids]
    each layer:  h += [norm] W_o · attend(rope(norm_q(W_q x)), rope(norm_k(W_k x)), W_v x),   x = norm(h)
                 h += [norm] W_d · (act(W_g x) ⊙ W_u x),                                       x = norm(h)
    logits = W_lm · norm(h)

What is not a matrix product is float32: see :mod:`edgepress.export.tensorrt.linear`. Rotations read tables of cosines
and sines, since a GPU's sine of a large angle is inexact. Logits are float32; those of a half-precision head are
float16 values. Shapes are in :mod:`edgepress.artifact.tensorrt_layout`; every layer has its own heads, key-value heads
and ffn width.
"""

from __future__ import annotations

from collections.abc import Callable

from edgepress.artifact.families import EMBEDDING, FAMILIES, FINAL_NORM, HEAD, LINEARS, layer_name
from edgepress.artifact.plan import ModelPlan
from edgepress.artifact.spec import LayerSpec
from edgepress.artifact.tensorrt_layout import cache_names
from edgepress.export.onnx.graph import Graph, Piece, Value
from edgepress.export.tensorrt.attention import attend, visible_keys
from edgepress.export.tensorrt.linear import Matrix


def _silu(graph: Graph, x: str, output: str) -> str:
    gate = graph.node("Sigmoid", [x], f"{output}/sigmoid")
    return graph.node("Mul", [x, gate], output)


_ACTIVATIONS: dict[str, Callable[[Graph, str, str], str]] = {
    "silu": _silu,
    "gelu_tanh": lambda graph, x, output: graph.node("Gelu", [x], output, approximate="tanh"),
}


def decoder_graph(plan: ModelPlan) -> Graph:
    """The whole model's graph, from shapes and formats alone."""
    return _Decoder(plan).build()


class _Decoder:
    """The residual stream, float32 (batch, sequence, hidden), runs through ``self._hidden``."""

    def __init__(self, plan: ModelPlan) -> None:
        self._graph = Graph()
        self._spec = plan.spec
        self._family = FAMILIES[plan.spec.family]
        self._tensors = {tensor.name: tensor for tensor in plan.tensors}
        self._hidden = ""

    def build(self) -> Graph:
        graph, spec = self._graph, self._spec
        self._declare_inputs()
        embedding = Matrix(graph, self._tensors, EMBEDDING, "model.embed_tokens", looked_up=True)
        self._hidden = self._embed(embedding)
        for i, layer in enumerate(spec.layers):
            if layer.heads:
                self._attention(i, layer)
            self._feed_forward(i)
        normed = self._norm(self._hidden, FINAL_NORM, "/model/norm", spec.hidden)
        head = embedding if spec.tied else Matrix(graph, self._tensors, HEAD, "lm_head")
        head.product(normed, "logits")
        self._declare_outputs()
        return graph

    def _declare_inputs(self) -> None:
        inputs, tokens = self._graph.inputs, ("batch", "sequence")
        inputs += [Value(name=name, dtype="int64", shape=tokens) for name in ("input_ids", "position_ids")]
        inputs.append(Value(name="attention_mask", dtype="int64", shape=("batch", "total")))
        inputs += self._cache("past_key_values", "past")

    def _declare_outputs(self) -> None:
        shape = ("batch", "sequence", self._spec.vocab)
        self._graph.outputs.append(Value(name="logits", dtype="float32", shape=shape))
        self._graph.outputs += self._cache("present", "total")

    def _cache(self, prefix: str, length: str) -> list[Value]:
        heads = [self._spec.layers[index].kv_heads for index in self._spec.attending for _side in range(2)]
        return [
            Value(name=name, dtype="float16", shape=("batch", kv_heads, length, self._spec.head_dim))
            for name, kv_heads in zip(cache_names(len(self._spec.attending), prefix), heads, strict=True)
        ]

    def _embed(self, embedding: Matrix) -> str:
        rows = embedding.lookup("input_ids", "/model/embed_tokens")
        if self._spec.embedding_scale == 1.0:
            return rows
        scale = self._graph.scalar("embedding_scale", self._spec.embedding_scale)
        return self._graph.node("Mul", [rows, scale], "/model/embed_tokens/scaled")

    def _attention(self, i: int, layer: LayerSpec) -> None:
        graph, place = self._graph, f"/layers.{i}/attn"
        norm = layer_name(i, "input_layernorm")
        x = self._norm(self._hidden, norm, f"/layers.{i}/input_layernorm", self._spec.hidden)
        q = self._rotated(self._heads(i, "attn_q", x, layer.heads), layer)
        scaled = graph.node("Mul", [q, graph.scalar("attention_scale", self._spec.attention_scale)], f"{q}/scaled")
        queries = graph.node("Cast", [scaled], f"{place}/queries", to="float16")
        k = self._rotated(self._heads(i, "attn_k", x, layer.kv_heads), layer)
        v = self._heads(i, "attn_v", x, layer.kv_heads)
        keys, values = self._appended(i, "key", k), self._appended(i, "value", v)
        visible = visible_keys(graph, "past_key_values.0.key", layer.window, layer.heads // layer.kv_heads)
        sizes = {"heads": layer.heads, "kv_heads": layer.kv_heads, "head_dim": self._spec.head_dim}
        attended = attend(graph, queries, keys, values, visible, place, **sizes)
        by_token = graph.node("Transpose", [attended], f"{place}/by_token", perm=[0, 2, 1, 3])
        width = graph.integers(0, 0, layer.heads * self._spec.head_dim)
        joined = graph.node("Reshape", [by_token, width], f"{place}/joined")
        floats = graph.node("Cast", [joined], f"{place}/joined/float32", to="float32")
        self._add(i, self._linear(i, "attn_output", floats), after="post_attention_layernorm")

    def _heads(self, i: int, role: str, x: str, heads: int) -> str:
        """Queries, keys or values, float32 (batch, heads, sequence, head_dim); normalised where the family does so."""
        graph, part = self._graph, LINEARS[role]
        place, product = f"/layers.{i}/{part}", self._linear(i, role, x)
        split = graph.node("Reshape", [product, graph.integers(0, 0, heads, self._spec.head_dim)], f"{place}/split")
        norm = f"self_attn.{role[-1]}_norm"
        if self._family.qk_norm and norm in self._family.norms:
            split = self._norm(split, layer_name(i, norm), f"/layers.{i}/{norm}", self._spec.head_dim)
        return graph.node("Transpose", [split], f"{place}/heads", perm=[0, 2, 1, 3])

    def _rotated(self, x: str, layer: LayerSpec) -> str:
        """The first and the second half of each head turned by the position's angles, float32."""
        graph, (cos, sin) = self._graph, self._rotary(layer)
        halves = [f"{x}/first", f"{x}/second"]
        graph.node("Split", [x], halves, axis=-1, num_outputs=2)

        def turned(a: str, b: str, op: str, name: str) -> str:
            parts = [
                graph.node("Mul", [half, table], f"{x}/{name}_{table.rpartition('/')[2]}")
                for half, table in ((a, cos), (b, sin))
            ]
            return graph.node(op, parts, f"{x}/{name}")

        first = turned(halves[0], halves[1], "Sub", "turned_first")
        second = turned(halves[1], halves[0], "Add", "turned_second")
        return graph.node("Concat", [first, second], f"{x}/rotated", axis=-1)

    def _rotary(self, layer: LayerSpec) -> tuple[str, str]:
        """cos and sin of the tokens' angles, float32 (batch, 1, sequence, head_dim / 2); one pair per rotation."""
        graph, suffix = self._graph, "_local" if layer.local_rope else ""
        shape = (self._spec.context, self._spec.head_dim // 2)

        def angles(part: str) -> str:
            piece = Piece(tensor="", part=f"{part}{suffix}")  # type: ignore[arg-type]  # one of four literals
            table = graph.stored(f"{part}_cache{suffix}", "float32", shape, [piece])
            rows = graph.node("Gather", [table, "position_ids"], f"/rotary{suffix}/{part}/rows")
            return graph.node("Unsqueeze", [rows, graph.integers(1)], f"/rotary{suffix}/{part}")

        return graph.once(f"cos{suffix}", lambda: angles("cos")), graph.once(f"sin{suffix}", lambda: angles("sin"))

    def _appended(self, i: int, side: str, new: str) -> str:
        """The layer's keys or values behind those of the cache."""
        half = self._graph.node("Cast", [new], f"{new}/{side}", to="float16")
        place = self._spec.attending.index(i)
        return self._graph.node("Concat", [f"past_key_values.{place}.{side}", half], f"present.{place}.{side}", axis=2)

    def _feed_forward(self, i: int) -> None:
        graph, place = self._graph, f"/layers.{i}/mlp"
        name = "pre_feedforward_layernorm" if self._family.sandwich else "post_attention_layernorm"
        x = self._norm(self._hidden, layer_name(i, name), f"/layers.{i}/{name}/mlp", self._spec.hidden)
        gate, up = self._linear(i, "ffn_gate", x), self._linear(i, "ffn_up", x)
        active = _ACTIVATIONS[self._spec.activation](graph, gate, f"{place}/active")
        gated = graph.node("Mul", [active, up], f"{place}/gated")
        self._add(i, self._linear(i, "ffn_down", gated), after="post_feedforward_layernorm")

    def _linear(self, i: int, role: str, x: str) -> str:
        part = LINEARS[role]
        matrix = Matrix(self._graph, self._tensors, layer_name(i, part), f"model.layers.{i}.{part}")
        return matrix.product(x, f"/layers.{i}/{part}")

    def _add(self, i: int, x: str, after: str) -> None:
        """Add x to the residual stream, normalised first in the families that do so."""
        if self._family.sandwich:
            x = self._norm(x, layer_name(i, after), f"/layers.{i}/{after}", self._spec.hidden)
        self._hidden = self._graph.node("Add", [self._hidden, x], f"{x}/residual")

    def _norm(self, x: str, name: str, output: str, size: int) -> str:
        """g ⊙ x / sqrt(mean(x²) + ε) over the last axis, float32."""
        graph = self._graph
        gain = graph.stored(name, "float32", (size,), [Piece(tensor=name, part="gain")])
        squares = graph.node("Mul", [x, x], f"{output}/squares")
        mean = graph.node("ReduceMean", [squares, graph.integers(-1)], f"{output}/mean", keepdims=1)
        shifted = graph.node("Add", [mean, graph.scalar("norm_eps", self._spec.norm_eps)], f"{output}/shifted")
        root = graph.node("Sqrt", [shifted], f"{output}/root")
        unit = graph.node("Div", [x, root], f"{output}/unit")
        return graph.node("Mul", [unit, gain], output)
