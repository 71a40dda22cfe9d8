"""Attention with a cache in standard operators.

    m[b, s, t] = 0 where query s may see key t, else -30000
    o = softmax(q k^T + m) v              per head, q scaled by the model's factor and rotated in float32 before

Query p + s sees key t when t ≤ p + s, the mask shows t, and, in a layer with a window w, p + s - t < w; p tokens are in
the cache. Indices count, so a batch is padded on the left. -30000 is far below any score and keeps a row of padding
finite, which float16's lowest value would not.

The queries of one key-value head lie one after another as rows of one product, (batch, kv_heads, group · sequence,
head_dim), so that keys and values are not repeated. Products of q, k and v are in float16, as the cache is; scores are
masked and normalised in float32.
"""

from __future__ import annotations

from edgepress.export.onnx.graph import Graph

_HIDDEN = -30000.0


def causal_mask(graph: Graph, past: str, window: int | None) -> str:
    """Nodes for m, float32 (batch, 1, sequence, past + sequence); one per window.

    Args:
        graph: with inputs ``input_ids`` and ``attention_mask``.
        past: any layer's cached keys.
        window: keys that a query sees, its own included.
    """
    place = "/mask" if window is None else f"/mask/window_{window}"

    def make() -> str:
        behind = graph.once("/mask/behind", lambda: _distances(graph, past))
        hidden = graph.node("Less", [behind, graph.integers(0)], f"{place}/future")
        if window is not None:
            old = graph.node("GreaterOrEqual", [behind, graph.integers(window)], f"{place}/old")
            hidden = graph.node("Or", [hidden, old], f"{place}/outside")
        padding = graph.once("/mask/padding", lambda: _padding(graph))
        hidden = graph.node("Or", [hidden, padding], f"{place}/hidden")
        values = [graph.scalar("hidden_score", _HIDDEN), graph.scalar("visible_score", 0.0)]
        return graph.node("Where", [hidden, *values], place)

    return graph.once(place, make)


def attend(graph: Graph, q: str, keys: str, values: str, mask: str, place: str, *, heads: int, kv_heads: int) -> str:
    """Nodes for o, float16 (batch, heads, sequence, head_dim).

    Args:
        graph: where the nodes go.
        q: scaled queries, float16 (batch, heads, sequence, head_dim).
        keys, values: float16 (batch, kv_heads, past + sequence, head_dim).
        mask: from :func:`causal_mask`.
        place: prefix of the nodes' names.
        heads, kv_heads: of the layer.
    """
    by_head, by_group = graph.integers(0, heads, -1, 0), graph.integers(0, kv_heads, -1, 0)

    def regroup(x: str, shape: str, name: str) -> str:
        return x if heads == kv_heads else graph.node("Reshape", [x, shape], f"{place}/{name}")

    turned = graph.node("Transpose", [keys], f"{place}/keys", perm=[0, 1, 3, 2])
    product = graph.node("MatMul", [regroup(q, by_group, "groups"), turned], f"{place}/products")
    scores = graph.node("Cast", [regroup(product, by_head, "scores")], f"{place}/scores/float32", to="float32")
    masked = graph.node("Add", [scores, mask], f"{place}/masked")
    weights = graph.node("Softmax", [masked], f"{place}/weights", axis=-1)
    halves = graph.node("Cast", [weights], f"{place}/weights/float16", to="float16")
    summed = graph.node("MatMul", [regroup(halves, by_group, "weights/groups"), values], f"{place}/summed")
    return regroup(summed, by_head, "heads")


def _distances(graph: Graph, past: str) -> str:
    """How far key t lies behind query s, int64 (1, 1, sequence, past + sequence); negative in the future."""
    zero, one = graph.integer(0), graph.integer(1)
    ends = []
    for name, axis in ((past, 2), ("attention_mask", 1)):
        size = graph.node("Shape", [name], f"/mask/size_{axis}", start=axis, end=axis + 1)
        ends.append(graph.node("Squeeze", [size], f"/mask/length_{axis}"))
    queries = graph.node("Range", [ends[0], ends[1], one], "/mask/queries")
    keys = graph.node("Range", [zero, ends[1], one], "/mask/keys")
    rows = graph.node("Unsqueeze", [queries, graph.integers(0, 1, 3)], "/mask/rows")
    return graph.node("Sub", [rows, keys], "/mask/behind")


def _padding(graph: Graph) -> str:
    shape = graph.integers(1, 2)
    shown = graph.node("Cast", ["attention_mask"], "/mask/shown", to="bool")
    hidden = graph.node("Not", [shown], "/mask/unshown")
    return graph.node("Unsqueeze", [hidden, shape], "/mask/padding")
