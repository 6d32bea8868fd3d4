"""What a generation did and where its time went."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Seconds:
    """Wall-clock seconds; on a device that works on its own, what it still does is seen by the step that waits.

    Attributes:
        prefill: the passes over the prompts, those of a draft model included.
        measuring: the cost curve, once for a model, a batch size and a number of threads.
        drafting: proposing trees, and reading what a pass shows a drafter.
        forward: the model's passes over them, its LM head included.
        verification: accepting, and moving the accepted rows of the cache.
        loop: all else.
    """

    prefill: float = 0.0
    measuring: float = 0.0
    drafting: float = 0.0
    forward: float = 0.0
    verification: float = 0.0
    loop: float = 0.0

    @property
    def decoding(self) -> float:
        """All behind the prefill, but for what was measured once."""
        return self.drafting + self.forward + self.verification + self.loop


@dataclass
class Statistics:
    """Of one call of `generate`, all requests together.

    Attributes:
        tokens: written, as in `Generation.new_tokens`.
        first_tokens: those of them that the prefill gave, one a request.
        passes: over trees, each for all requests that were not finished.
        request_passes: the same, counted once for each of these requests.
        drafted: nodes below the roots that were verified.
        accepted: those of them that were written.
        budgets: how many passes ran with how many nodes a request, the root included.
        cost_curve: seconds of a pass by nodes a request, where it was measured.
        explanation: why these budgets, in a sentence.
    """

    tokens: int = 0
    first_tokens: int = 0
    passes: int = 0
    request_passes: int = 0
    drafted: int = 0
    accepted: int = 0
    seconds: Seconds = field(default_factory=Seconds)
    budgets: Counter[int] = field(default_factory=Counter)
    cost_curve: Mapping[int, float] = field(default_factory=dict)
    explanation: str = ""

    @property
    def tokens_per_pass(self) -> float:
        """Written by a request in a pass, on average; 1 without drafts."""
        return (self.tokens - self.first_tokens) / self.request_passes if self.request_passes else 0.0

    @property
    def accepted_share(self) -> float:
        """Of the drafted nodes; of siblings at most one can be."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of decoding, without the prefill and the tokens that it gave."""
        decoding = self.seconds.decoding
        return (self.tokens - self.first_tokens) / decoding if decoding else 0.0

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens, {self.tokens_per_second:.1f} tokens/s, {self.tokens_per_pass:.2f} tokens a pass, "
            f"{100 * self.accepted_share:.0f} % of drafts accepted"
        )
