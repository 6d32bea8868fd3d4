"""Where a text ends."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Stopping:
    """The earliest of: a stop token, the end of a stop string, the last token that may be written.

    Args:
        tokens: ids that end a text; they stay in it.
        strings: what ends a text once it is written; it stays in it, with the whole token that completes it.
        tokenizer: for the strings.
        max_new_tokens: of each request.

    Raises:
        ValueError, TypeError: an empty string, strings without a tokenizer, a token that is no integer.
    """

    def __init__(
        self,
        tokens: Iterable[int],
        strings: Sequence[str],
        tokenizer: "PreTrainedTokenizerBase | None",
        max_new_tokens: int,
    ) -> None:
        if isinstance(strings, str) or not all(isinstance(string, str) and string for string in strings):
            raise ValueError(f"generate: stop_strings must be a list of strings that are not empty, got {strings!r}")
        if strings and tokenizer is None:
            raise ValueError("generate: stop_strings need the tokenizer, got none")
        self._tokens = frozenset(tokens)
        if wrong := [token for token in self._tokens if not isinstance(token, int)]:
            raise TypeError(f"generate: stop_tokens must be integers, got {type(wrong[0]).__name__}")
        self._strings, self._tokenizer, self._max_new_tokens = strings, tokenizer, max_new_tokens
        # A token is at least a byte, but for those that are special or begin a character.
        self._reach = max((len(string.encode()) for string in strings), default=0) + 4

    def cut(self, written: Sequence[int], new: list[int]) -> tuple[list[int], str | None]:
        """The new tokens that still belong to the text, and why it ends behind them: "stop token", "stop string",
        "length", or None where it goes on."""
        kept, reason = new[: self._max_new_tokens - len(written)], None
        if len(written) + len(kept) == self._max_new_tokens:
            reason = "length"
        place = next((i for i, token in enumerate(kept) if token in self._tokens), None)
        if place is not None:
            kept, reason = kept[: place + 1], "stop token"
        if self._strings and (end := self._string_end(written, kept)) is not None:
            kept, reason = kept[:end], "stop string"
        return kept, reason

    def _string_end(self, written: Sequence[int], new: list[int]) -> int | None:
        """How many of the new tokens complete the first stop string."""
        before = list(written[-self._reach :])
        if not self._has_string([*before, *new]):
            return None
        return next(count for count in range(1, len(new) + 1) if self._has_string([*before, *new[:count]]))

    def _has_string(self, tokens: list[int]) -> bool:
        assert self._tokenizer is not None
        text = self._tokenizer.decode(tokens)
        return any(string in text for string in self._strings)


def own_stop_tokens(model: Any) -> list[int]:
    """The tokens with which the model itself ends a text, as its generation config says; none where it has none."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
