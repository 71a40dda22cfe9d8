"""What the tensors of encoders are, as one table: which sides of each are residual channels, heads, neurons.

Names are those that transformers gives the modules; a name with ``{i}`` exists once per layer. A linear's bias lies
along its rows. Whatever distinguishes the families inside an algorithm is a field here, never a branch on the name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

Axis = Literal["hidden", "heads", "ffn", "pooled"]
Axes = tuple[Axis | None, ...]
_HIDDEN_ROWS: Axes = ("hidden",)
_LOOKUP: Axes = (None, "hidden")
_QUERY: Axes = ("heads", "hidden")
_ATTENTION_OUTPUT: Axes = ("hidden", "heads")
_FFN_IN: Axes = ("ffn", "hidden")
_FFN_OUT: Axes = ("hidden", "ffn")
_POOLER: Axes = ("pooled", "hidden")
_FROM_STATES: Axes = (None, "hidden")
_FROM_POOLED: Axes = (None, "pooled")


class Role(NamedTuple):
    """What a tensor is: what each of its sides counts (None: kept whole), and whether a scale depends on a width."""

    axes: Axes
    is_norm: bool = False
    is_query: bool = False


class SizeFields(msgspec.Struct, frozen=True, kw_only=True):
    """What the sizes are called in ``config.json``."""

    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    ffn: str = "intermediate_size"


class EncoderFamily(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    name      ``model_type`` in ``config.json``
    prefix    before the names of the base model where a class adds a head to it
    base      the class without a head
    heads     class → its own linears
    tables    parameters that are no linear's
    linears   within ``layer``; those outside the layers are in ``outer``
    norms     within ``layer``; those outside the layers are in ``outer_norms``
    query     the linear of ``linears`` that makes the queries
    pooled    width of the pooler in ``config.json``, where it has a field of its own
    images    whether the inputs are pictures
    """

    name: str
    prefix: str
    base: str
    heads: dict[str, dict[str, Axes]]
    tables: dict[str, Axes]
    layer: str
    linears: dict[str, Axes]
    query: str
    norms: tuple[str, ...]
    outer_norms: tuple[str, ...]
    outer: dict[str, Axes] = {}
    sizes: SizeFields = SizeFields()
    pooled: str | None = None
    images: bool = False

    @property
    def architectures(self) -> tuple[str, ...]:
        """Classes whose tensors are known."""
        return (self.base, *self.heads)

    def before(self, architecture: str) -> str:
        """What stands before the base model's names in a class."""
        return "" if architecture == self.base else f"{self.prefix}."

    def tensors(self, architecture: str, layers: Sequence[int]) -> Iterator[tuple[str, Role, int | None]]:
        """Name, role and place in ``layers`` of every tensor that a class may have; None outside the layers."""
        for name, role in self._roles(architecture).items():
            if "{i}" in name:
                yield from ((name.format(i=layer), role, place) for place, layer in enumerate(layers))
            else:
                yield name, role, None

    def norm_modules(self, architecture: str, layers: Sequence[int]) -> tuple[str, ...]:
        """Module names of the layer norms, those of some layers and all others."""
        return tuple(
            name.removesuffix(".weight")
            for name, role, _ in self.tensors(architecture, layers)
            if role.is_norm and name.endswith(".weight")
        )

    def reader(self, axes: Axes) -> str:
        """The linear of a layer with such sides."""
        return self.layer + next(part for part, found in self.linears.items() if found == axes)

    def _roles(self, architecture: str) -> dict[str, Role]:
        start = self.before(architecture)
        found = {start + name: Role(axes) for name, axes in self.tables.items()}
        for name in (*self.outer_norms, *(self.layer + norm for norm in self.norms)):
            found |= {f"{start}{name}.{leaf}": Role(_HIDDEN_ROWS, is_norm=True) for leaf in ("weight", "bias")}
        for name, axes in ({self.layer + part: axes for part, axes in self.linears.items()} | self.outer).items():
            found |= _linear(start + name, axes, is_query=name == self.layer + self.query)
        for name, axes in self.heads.get(architecture, {}).items():
            found |= _linear(name, axes)
        return found


def _linear(name: str, axes: Axes, *, is_query: bool = False) -> dict[str, Role]:
    weight, bias = Role(axes, is_query=is_query), Role(axes[:1], is_query=is_query)
    return {f"{name}.weight": weight, f"{name}.bias": bias}


_BERT_TABLES: dict[str, Axes] = {
    f"embeddings.{kind}_embeddings.weight": _LOOKUP for kind in ("word", "position", "token_type")
}
_BERT_LINEARS: dict[str, Axes] = {
    "attention.self.query": _QUERY,
    "attention.self.key": _QUERY,
    "attention.self.value": _QUERY,
    "attention.output.dense": _ATTENTION_OUTPUT,
    "intermediate.dense": _FFN_IN,
    "output.dense": _FFN_OUT,
}
_BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
_VIT_TABLES: dict[str, Axes] = {
    "embeddings.cls_token": (None, None, "hidden"),
    "embeddings.position_embeddings": (None, None, "hidden"),
    "embeddings.patch_embeddings.projection.weight": ("hidden", None, None, None),
    "embeddings.patch_embeddings.projection.bias": ("hidden",),
}
_VIT_LINEARS: dict[str, Axes] = {
    "attention.q_proj": _QUERY,
    "attention.k_proj": _QUERY,
    "attention.v_proj": _QUERY,
    "attention.o_proj": _ATTENTION_OUTPUT,
    "mlp.fc1": _FFN_IN,
    "mlp.fc2": _FFN_OUT,
}
_VIT_NORMS = ("layernorm_before", "layernorm_after")

_ALL = (
    EncoderFamily(
        name="bert",
        prefix="bert",
        base="BertModel",
        heads={
            "BertForSequenceClassification": {"classifier": _FROM_POOLED},
            "BertForTokenClassification": {"classifier": _FROM_STATES},
        },
        tables=_BERT_TABLES,
        layer="encoder.layer.{i}.",
        linears=_BERT_LINEARS,
        query="attention.self.query",
        norms=_BERT_NORMS,
        outer_norms=("embeddings.LayerNorm",),
        outer={"pooler.dense": _POOLER},
    ),
    EncoderFamily(
        name="roberta",
        prefix="roberta",
        base="RobertaModel",
        heads={
            "RobertaForSequenceClassification": {"classifier.dense": _POOLER, "classifier.out_proj": _FROM_POOLED},
            "RobertaForTokenClassification": {"classifier": _FROM_STATES},
        },
        tables=_BERT_TABLES,
        layer="encoder.layer.{i}.",
        linears=_BERT_LINEARS,
        query="attention.self.query",
        norms=_BERT_NORMS,
        outer_norms=("embeddings.LayerNorm",),
        outer={"pooler.dense": _POOLER},
    ),
    EncoderFamily(
        name="distilbert",
        prefix="distilbert",
        base="DistilBertModel",
        heads={
            "DistilBertForSequenceClassification": {"pre_classifier": _POOLER, "classifier": _FROM_POOLED},
            "DistilBertForTokenClassification": {"classifier": _FROM_STATES},
        },
        tables={f"embeddings.{kind}_embeddings.weight": _LOOKUP for kind in ("word", "position")},
        layer="transformer.layer.{i}.",
        linears={
            "attention.q_lin": _QUERY,
            "attention.k_lin": _QUERY,
            "attention.v_lin": _QUERY,
            "attention.out_lin": _ATTENTION_OUTPUT,
            "ffn.lin1": _FFN_IN,
            "ffn.lin2": _FFN_OUT,
        },
        query="attention.q_lin",
        norms=("sa_layer_norm", "output_layer_norm"),
        outer_norms=("embeddings.LayerNorm",),
        sizes=SizeFields(hidden="dim", layers="n_layers", heads="n_heads", ffn="hidden_dim"),
    ),
    EncoderFamily(
        name="vit",
        prefix="vit",
        base="ViTModel",
        heads={"ViTForImageClassification": {"classifier": _FROM_STATES}},
        tables=_VIT_TABLES,
        layer="layers.{i}.",
        linears=_VIT_LINEARS,
        query="attention.q_proj",
        norms=_VIT_NORMS,
        outer_norms=("layernorm",),
        outer={"pooler.dense": _POOLER},
        pooled="pooler_output_size",
        images=True,
    ),
    EncoderFamily(
        name="deit",
        prefix="deit",
        base="DeiTModel",
        heads={
            "DeiTForImageClassification": {"classifier": _FROM_STATES},
            "DeiTForImageClassificationWithTeacher": {
                "cls_classifier": _FROM_STATES,
                "distillation_classifier": _FROM_STATES,
            },
        },
        tables=_VIT_TABLES | {"embeddings.distillation_token": (None, None, "hidden")},
        layer="layers.{i}.",
        linears=_VIT_LINEARS,
        query="attention.q_proj",
        norms=_VIT_NORMS,
        outer_norms=("layernorm",),
        outer={"pooler.dense": _POOLER},
        pooled="pooler_output_size",
        images=True,
    ),
)

ENCODER_FAMILIES: dict[str, EncoderFamily] = {family.name: family for family in _ALL}
