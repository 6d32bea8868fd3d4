"""Integer arithmetic, logic, shifts, bit fields, comparison and conversion against plain Python integers."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.ptx_on_cpu.forms import THREADS, Form, assert_equal, execute, kernel, tables
from tests.ptx_on_cpu.sample import load_ptx


def signed(x: int, bits: int) -> int:
    return (x + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def integers(function: Callable[..., int], bits: int = 32) -> Callable[..., np.ndarray]:
    """Applies a function of Python integers, whose result is taken modulo 2**bits."""

    def apply(*columns: np.ndarray) -> np.ndarray:
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return np.array([int(function(*row)) % (1 << bits) for row in rows], np.uint64)

    return apply


def form(text: str, types: str, function: Callable[..., int], *columns: list[int]) -> Form:
    """`types` is "d a b c"; the expected value is compared as bits of d's width."""
    names = types.split()
    bits = int("".join(filter(str.isdigit, names[0])) or 1) if names[0] != "pred" else 8
    result = names[0] if names[0] == "pred" else f"u{bits}"
    return Form(text, (result, *names[1:]), integers(function, bits), tuple(columns))


def divide(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def bits_of(a: int, position: int, length: int, width: int, is_signed: bool) -> int:
    position, length = position & 255, length & 255
    sign = (a >> min(position + length - 1, width - 1)) & 1 if is_signed and length else 0
    return sum(((a >> (position + i)) & 1 if i < length and position + i < width else sign) << i for i in range(width))


def inserted(a: int, b: int, position: int, length: int) -> int:
    for i in range(length):
        if position + i < 32:
            b = b & ~(1 << (position + i)) | ((a >> i) & 1) << (position + i)
    return b


def permuted(a: int, b: int, selector: int) -> int:
    data = (a | b << 32).to_bytes(8, "little")
    picks = [(selector >> (4 * i)) & 15 for i in range(4)]
    return int.from_bytes([(255 if data[p & 7] & 128 else 0) if p & 8 else data[p] for p in picks], "little")


def highest(a: int, bits: int, is_signed: bool) -> int:
    value = ~a if is_signed and a < 0 else a
    return value.bit_length() - 1


NONZERO = [x or 7 for x in np.random.default_rng(5).integers(-1000, 1000, THREADS).tolist()]
SMALL = np.random.default_rng(6).integers(0, 40, THREADS).tolist()
WORDS = np.random.default_rng(7).integers(0, 2**32, THREADS).tolist()
SIGNED = [signed(x, 32) for x in WORDS]
LONGS = np.random.default_rng(8).integers(-(2**62), 2**62, THREADS).tolist()

FORMS = [
    *(form(f"add.{t} {{d}}, {{a}}, {{b}};", f"{t} {t} {t}", lambda a, b: a + b) for t in ("s16", "u32", "s64")),
    *(form(f"sub.{t} {{d}}, {{a}}, {{b}};", f"{t} {t} {t}", lambda a, b: a - b) for t in ("u16", "s32", "u64")),
    *(form(f"mul.lo.{t} {{d}}, {{a}}, {{b}};", f"{t} {t} {t}", lambda a, b: a * b) for t in ("s16", "s32", "s64")),
    form("mul.hi.u32 {d}, {a}, {b};", "u32 u32 u32", lambda a, b: a * b >> 32),
    form("mul.hi.s32 {d}, {a}, {b};", "s32 s32 s32", lambda a, b: a * b >> 32),
    form("mul.hi.u64 {d}, {a}, {b};", "u64 u64 u64", lambda a, b: a * b >> 64),
    form("mul.hi.s64 {d}, {a}, {b};", "s64 s64 s64", lambda a, b: a * b >> 64),
    form("mul.wide.s32 {d}, {a}, {b};", "s64 s32 s32", lambda a, b: a * b),
    form("mul.wide.u16 {d}, {a}, {b};", "u32 u16 u16", lambda a, b: a * b),
    form("mad.lo.s32 {d}, {a}, {b}, {c};", "s32 s32 s32 s32", lambda a, b, c: a * b + c),
    form("mad.wide.u32 {d}, {a}, {b}, {c};", "u64 u32 u32 u64", lambda a, b, c: a * b + c),
    form("mad.hi.s32 {d}, {a}, {b}, {c};", "s32 s32 s32 s32", lambda a, b, c: (a * b >> 32) + c),
    form("div.s32 {d}, {a}, {b};", "s32 s32 s32", divide, SIGNED, NONZERO),
    form("rem.s32 {d}, {a}, {b};", "s32 s32 s32", lambda a, b: a - b * divide(a, b), SIGNED, NONZERO),
    form("div.u64 {d}, {a}, {b};", "u64 u64 u64", lambda a, b: a // b, WORDS, [x + 1 for x in SMALL]),
    form("rem.s64 {d}, {a}, {b};", "s64 s64 s64", lambda a, b: a - b * divide(a, b), LONGS, NONZERO),
    *(form(f"min.{t} {{d}}, {{a}}, {{b}};", f"{t} {t} {t}", min) for t in ("s32", "u32", "s64", "u16")),
    *(form(f"max.{t} {{d}}, {{a}}, {{b}};", f"{t} {t} {t}", max) for t in ("s32", "u32", "u64", "s16")),
    form("abs.s32 {d}, {a};", "s32 s32", abs),
    form("neg.s64 {d}, {a};", "s64 s64", lambda a: -a),
    form("and.b32 {d}, {a}, {b};", "b32 b32 b32", lambda a, b: a & b),
    form("or.b64 {d}, {a}, {b};", "b64 b64 b64", lambda a, b: a | b),
    form("xor.b16 {d}, {a}, {b};", "b16 b16 b16", lambda a, b: a ^ b),
    form("not.b32 {d}, {a};", "b32 b32", lambda a: ~a),
    form("cnot.b32 {d}, {a};", "b32 b32", lambda a: a == 0),
    form("xor.pred {d}, {a}, {b};", "pred pred pred", lambda a, b: a ^ b),
    form("not.pred {d}, {a};", "pred pred", lambda a: 1 - a),
    form("lop3.b32 {d}, {a}, {b}, {c}, 0x96;", "b32 b32 b32 b32", lambda a, b, c: a ^ b ^ c),
    form("lop3.b32 {d}, {a}, {b}, {c}, 0xca;", "b32 b32 b32 b32", lambda a, b, c: a & b | ~a & c),
    form("shl.b32 {d}, {a}, {b};", "b32 b32 u32", lambda a, b: a << b, WORDS, SMALL),
    form("shr.u32 {d}, {a}, {b};", "u32 u32 u32", lambda a, b: a >> b, WORDS, SMALL),
    form("shr.s64 {d}, {a}, {b};", "s64 s64 u32", lambda a, b: a >> b, LONGS, [2 * x for x in SMALL]),
    form("shf.l.wrap.b32 {d}, {a}, {b}, {c};", "b32 b32 b32 b32",
         lambda a, b, c: (b << 32 | a) << (c & 31) >> 32, WORDS, WORDS[::-1], SMALL),
    form("shf.r.clamp.b32 {d}, {a}, {b}, {c};", "b32 b32 b32 b32",
         lambda a, b, c: (b << 32 | a) >> min(c, 32), WORDS, WORDS[::-1], SMALL),
    form("popc.b32 {d}, {a};", "u32 b32", lambda a: a.bit_count()),
    form("popc.b64 {d}, {a};", "u32 b64", lambda a: a.bit_count()),
    form("clz.b32 {d}, {a};", "u32 b32", lambda a: 32 - a.bit_length()),
    form("clz.b64 {d}, {a};", "u32 b64", lambda a: 64 - a.bit_length()),
    form("brev.b32 {d}, {a};", "b32 b32", lambda a: int(f"{a:032b}"[::-1], 2)),
    form("brev.b64 {d}, {a};", "b64 b64", lambda a: int(f"{a:064b}"[::-1], 2)),
    form("bfind.u32 {d}, {a};", "u32 u32", lambda a: highest(a, 32, False)),
    form("bfind.s32 {d}, {a};", "u32 s32", lambda a: highest(a, 32, True)),
    form("bfind.u64 {d}, {a};", "u32 u64", lambda a: highest(a, 64, False)),
    form("bfind.shiftamt.u32 {d}, {a};", "u32 u32", lambda a: -1 if a == 0 else 31 - highest(a, 32, False)),
    form("bfe.u32 {d}, {a}, {b}, {c};", "u32 u32 u32 u32",
         lambda a, b, c: bits_of(a, b, c, 32, False), WORDS, SMALL, SMALL[::-1]),
    form("bfe.s32 {d}, {a}, {b}, {c};", "s32 s32 u32 u32",
         lambda a, b, c: bits_of(a, b, c, 32, True), SIGNED, SMALL, SMALL[::-1]),
    form("bfi.b32 {d}, {a}, {b}, {c}, 5;", "b32 b32 b32 u32",
         lambda a, b, c: inserted(a, b, c, 5), WORDS, WORDS, SMALL),
    form("prmt.b32 {d}, {a}, {b}, {c};", "b32 b32 b32 b32", permuted),
    *(form(f"setp.{c}.{t} {{d}}, {{a}}, {{b}};", f"pred {t} {t}", f)
      for c, t, f in (("eq", "s32", lambda a, b: a == b), ("ne", "b32", lambda a, b: a != b),
                      ("lt", "s32", lambda a, b: a < b), ("le", "u32", lambda a, b: a <= b),
                      ("gt", "s64", lambda a, b: a > b), ("ge", "u16", lambda a, b: a >= b),
                      ("lo", "u32", lambda a, b: a < b), ("hs", "u64", lambda a, b: a >= b))),
    form("setp.lt.and.s32 {d}, {a}, {b}, {c};", "pred s32 s32 pred", lambda a, b, c: a < b and c),
    form("selp.b32 {d}, {a}, {b}, {c};", "b32 b32 b32 pred", lambda a, b, c: a if c else b),
    form("slct.s32.s32 {d}, {a}, {b}, {c};", "s32 s32 s32 s32", lambda a, b, c: a if c >= 0 else b),
    form("set.lt.u32.s32 {d}, {a}, {b};", "u32 s32 s32", lambda a, b: -(a < b)),
    form("cvt.s64.s32 {d}, {a};", "s64 s32", lambda a: a),
    form("cvt.u64.u32 {d}, {a};", "u64 u32", lambda a: a),
    form("cvt.u32.u64 {d}, {a};", "u32 u64", lambda a: a),
    form("cvt.s32.s8 {d}, {a};", "s32 s8", lambda a: a),
    form("cvt.u16.u32 {d}, {a};", "u16 u32", lambda a: a),
    form("cvt.sat.s8.s32 {d}, {a};", "s8 s32", lambda a: max(-128, min(127, a))),
    form("cvt.sat.u16.s32 {d}, {a};", "u16 s32", lambda a: max(0, min(65535, a))),
    form("mov.b64 {d}, {{{a}, {b}}};", "b64 b32 b32", lambda a, b: a | b << 32),
    form("{{ .reg .b32 x; mov.b64 {{x, {d}}}, {a}; }}", "b32 b64", lambda a: a >> 32),
]  # fmt: skip


@pytest.fixture(scope="module")
def results() -> list[np.ndarray]:
    return execute(load_ptx("integers", kernel("integers", FORMS)), "integers", FORMS)


@pytest.mark.parametrize("number", range(len(FORMS)), ids=lambda number: FORMS[number].text.split()[0])
def test_integer_instruction(results: list[np.ndarray], number: int) -> None:
    assert_equal(FORMS[number], tables(FORMS)[number], results[number])
