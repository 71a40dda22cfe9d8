"""Attention with a cache in standard operators, in the one form that TensorRT fuses for grouped queries.

    o = softmax(where(visible, q k^T, -30000)) v        per head, q scaled by the model's factor and rotated before

Query p + s sees key t when t ≤ p + s, the mask shows t, and, in a layer with a window w, p + s - t < w; p tokens are in
the cache. Indices count, so a batch is padded on the left. -30000 is far below any score and keeps a row of padding
finite, which the lowest float16 value would not.

The queries of one key-value head lie one after another as rows of one product, (batch, kv_heads, group · sequence,
head_dim), and what is visible is repeated for them once for all layers; keys and values are not. So between the two
products there is nothing but the choice and the softmax: TensorRT-RTX makes one kernel of that, without scores in
memory, and does not where a Reshape stands between (found in the engines' text). Products are in float16, as the cache
is; scores are normalised in float32.
"""

from __future__ import annotations

from edgepress.export.onnx.graph import Graph

_HIDDEN = -30000.0


def visible_keys(graph: Graph, past: str, window: int | None, group: int) -> str:
    """Nodes for which keys each query sees, bool (batch, 1, group · sequence, past + sequence).

    Args:
        graph: with inputs ``input_ids`` and ``attention_mask``.
        past: any layer's cached keys.
        window: keys that a query sees, its own included.
        group: query heads of a key-value head.
    """
    place = "/visible" if window is None else f"/visible/window_{window}"

    def make() -> str:
        behind = graph.once("/visible/behind", lambda: _distances(graph, past))
        seen = graph.node("GreaterOrEqual", [behind, graph.integers(0)], f"{place}/past")
        if window is not None:
            near = graph.node("Less", [behind, graph.integers(window)], f"{place}/near")
            seen = graph.node("And", [seen, near], f"{place}/inside")
        return graph.node("And", [seen, graph.once("/visible/shown", lambda: _shown(graph))], place)

    once = graph.once(place, make)
    if group == 1:
        return once
    grouped = f"{place}/group_{group}"
    return graph.once(grouped, lambda: graph.node("Concat", [once] * group, grouped, axis=2))


def attend(
    graph: Graph, q: str, keys: str, values: str, visible: str, place: str, *, heads: int, kv_heads: int, head_dim: int
) -> str:
    """Nodes for o, float16 (batch, heads, sequence, head_dim).

    Args:
        graph: where the nodes go.
        q: scaled queries, float16 (batch, heads, sequence, head_dim).
        keys, values: float16 (batch, kv_heads, past + sequence, head_dim).
        visible: from :func:`visible_keys`.
        place: prefix of the nodes' names.
        heads, kv_heads, head_dim: of the layer.
    """
    by_group, by_head = (graph.integers(0, count, -1, head_dim) for count in (kv_heads, heads))
    if heads != kv_heads:
        q = graph.node("Reshape", [q, by_group], f"{place}/groups")
    turned = graph.node("Transpose", [keys], f"{place}/keys", perm=[0, 1, 3, 2])
    product = graph.node("MatMul", [q, turned], f"{place}/products")
    scores = graph.node("Cast", [product], f"{place}/scores", to="float32")
    chosen = graph.node("Where", [visible, scores, graph.scalar("hidden_score", _HIDDEN)], f"{place}/chosen")
    weights = graph.node("Softmax", [chosen], f"{place}/weights", axis=-1)
    halves = graph.node("Cast", [weights], f"{place}/weights/float16", to="float16")
    summed = graph.node("MatMul", [halves, values], f"{place}/summed")
    return summed if heads == kv_heads else graph.node("Reshape", [summed, by_head], f"{place}/heads")


def _distances(graph: Graph, past: str) -> str:
    """How far key t lies behind query s, int64 (1, 1, sequence, past + sequence); negative in the future.

    The queries are counted by the tokens that come in, not by what the mask shows beyond the cache: TensorRT must know
    that they are as many as the products have rows.
    """

    def length(name: str, axis: int, place: str) -> str:
        size = graph.node("Shape", [name], f"{place}/size", start=axis, end=axis + 1)
        return graph.node("Squeeze", [size], place)

    zero, one = graph.integer(0), graph.integer(1)
    steps = graph.node("Range", [zero, length("input_ids", 1, "/visible/sequence"), one], "/visible/steps")
    queries = graph.node("Add", [steps, length(past, 2, "/visible/cached")], "/visible/queries")
    keys = graph.node("Range", [zero, length("attention_mask", 1, "/visible/total"), one], "/visible/keys")
    rows = graph.node("Unsqueeze", [queries, graph.integers(0, 1, 3)], "/visible/rows")
    return graph.node("Sub", [rows, keys], "/visible/behind")


def _shown(graph: Graph) -> str:
    shown = graph.node("Cast", ["attention_mask"], "/visible/cast", to="bool")
    return graph.node("Unsqueeze", [shown, graph.integers(1, 2)], "/visible/shown")
