"""One instruction, taken apart, and the table of functions that translate them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .module import Unsupported
from .types import BYTES

if TYPE_CHECKING:
    from .kernel import Kernel


@dataclass(frozen=True)
class Instruction:
    """`@guard opcode.modifier.modifier operand, operand;`"""

    text: str
    line: int
    guard: str  # C++ condition, "" for none
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]

    @property
    def type(self) -> str:
        """The last modifier that is a type: what the instruction computes in."""
        return next(m for m in reversed(self.modifiers) if m in BYTES)

    def has(self, modifier: str) -> bool:
        return modifier in self.modifiers

    def one_of(self, *candidates: str) -> str:
        """The candidate that is among the modifiers, "" if none is."""
        return next((m for m in self.modifiers if m in candidates), "")

    def allow(self, *modifiers: str) -> None:
        """Refuses every modifier that is neither a type nor named here."""
        for modifier in self.modifiers:
            if modifier not in BYTES and modifier not in modifiers:
                raise Unsupported(f"modifier .{modifier}")


def split_operands(text: str) -> tuple[str, ...]:
    """`%r1, {%r2, %r3}, [%rd1+4]` at the commas outside of brackets."""
    return tuple(part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text) if part.strip())


def vector(operand: str) -> list[str]:
    """The registers of `{a, b}`, or the one that stands alone."""
    return [part.strip() for part in operand.strip("{} ").split(",")]


Translation = Callable[["Kernel", Instruction], str]
TRANSLATIONS: dict[str, Translation] = {}


def translates(*opcodes: str) -> Callable[[Translation], Translation]:
    """Registers a function (kernel, instruction) -> C++ statements for these opcodes."""

    def register(function: Translation) -> Translation:
        TRANSLATIONS.update(dict.fromkeys(opcodes, function))
        return function

    return register
