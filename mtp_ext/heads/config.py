"""What a set of heads is, and of which model: what is stored beside their weights."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mtp_ext.ops.checks import check_range

KINDS = ("transformer", "mlp", "sequential", "prefix")
SEQUENTIAL = ("sequential", "prefix")  # kinds whose heads follow each other along a text
HIDDEN_STATES = ("last", "weighted")
_LARGEST_WIDTH = 1 << 20


@dataclass(frozen=True)
class BaseModel:
    """The model that heads were made for.

    Attributes:
        name: its folder or hub name, where known; to be read by people.
        architecture: its class.
        layers, hidden_size, vocab: its sizes.
        fingerprint: of all of its weights, see `Backbone.fingerprint`.
    """

    name: str
    architecture: str
    layers: int
    hidden_size: int
    vocab: int
    fingerprint: str


@dataclass(frozen=True)
class HeadsConfig:
    """A set of heads.

    Attributes:
        horizons: ascending; the head of horizon n predicts x[t+n] given x[..t]. 1 is the model's own next token.
        kind: one of `KINDS`.
        hidden_states: "last" or "weighted".
        width: of the hidden layer of an mlp, sequential or prefix head; None for transformer heads.
        base: the model.
        temperature: of the weights of weighted hidden states, T in softmax(w / T).
        draft_tokens: how many tokens drafts are made of, see `MTPHeads.draft_from`; None: the vocabulary.

    Raises:
        ValueError: a value that is not one of these.
    """

    horizons: tuple[int, ...]
    kind: str
    hidden_states: str
    width: int | None
    base: BaseModel
    temperature: float = 0.1
    draft_tokens: int | None = None

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.horizons, self.horizons[1:], strict=False))
        if not self.horizons or not all(type(n) is int and n >= 1 for n in self.horizons) or not ascending:
            raise ValueError(
                f"MTPHeads: horizons must be different whole numbers from 1, ascending, got {list(self.horizons)}"
            )
        if self.kind not in KINDS:
            raise ValueError(
                f"MTPHeads: kind must be 'transformer', 'mlp', 'sequential' or 'prefix', got {self.kind!r}"
            )
        if self.hidden_states not in HIDDEN_STATES:
            raise ValueError(f"MTPHeads: hidden_states must be 'last' or 'weighted', got {self.hidden_states!r}")
        if self.kind in SEQUENTIAL:
            self._check_sequence()
        if self.width is not None:
            check_range("MTPHeads", "width", self.width, 1, _LARGEST_WIDTH)
        if self.draft_tokens is not None:
            check_range("MTPHeads", "draft_tokens", self.draft_tokens, 1, self.base.vocab)

    def _check_sequence(self) -> None:
        """Each sequential head reads the one before it, the first the model's last hidden state."""
        if self.horizons != tuple(range(2, 2 + len(self.horizons))):
            raise ValueError(f"MTPHeads: horizons of {self.kind} heads must be 2, 3, ..., got {list(self.horizons)}")
        if self.hidden_states != "last":
            raise ValueError(f"MTPHeads: hidden_states of {self.kind} heads must be 'last', got {self.hidden_states!r}")

    @property
    def layers(self) -> Sequence[int]:
        """The layers of the model, counted from 1, whose outputs the heads read.

        Weighted heads read layers 1 to L-1, transformer heads layer L-1, and the others layer L, after the final norm;
        prefix heads also three layers, or fewer, evenly spaced below it.
        """
        last = self.base.layers
        if self.kind == "prefix":
            quarter = -(-last // 4)
            return [*range(quarter, last, quarter), last]
        if self.hidden_states == "weighted":
            return range(1, last)
        return range(last - 1, last) if self.kind == "transformer" else range(last, last + 1)

    def with_base(self, base: BaseModel) -> "HeadsConfig":
        return replace(self, base=base)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "HeadsConfig":
        """The opposite of `to_dict`.

        Raises:
            TypeError, KeyError, ValueError: other fields than these.
        """
        base, horizons = BaseModel(**fields["base"]), tuple(fields["horizons"])
        return cls(**fields | {"base": base, "horizons": horizons})
