"""Floating-point instructions against numpy and torch, bit for bit; special functions within the PTX ISA's bounds."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.ptx_on_cpu.forms import Form, assert_equal, execute, kernel, tables
from tests.ptx_on_cpu.sample import load_ptx

f32 = np.float32


def as_half(bits: np.ndarray, half: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(bits.copy()).view(half)


def halves(half: torch.dtype, function: Callable[..., torch.Tensor]) -> Callable[..., np.ndarray]:
    """Applies a function of float64 tensors to 16-bit floats, or to pairs of them, and rounds once."""

    def apply(*columns: np.ndarray) -> np.ndarray:
        result = function(*(as_half(column, half).double() for column in columns))
        return round_once(result, half).view(torch.uint16).numpy().view(columns[0].dtype)

    return apply


def round_once(x: torch.Tensor, half: torch.dtype) -> torch.Tensor:
    """float64 to a 16-bit float through float32 rounded to odd: one rounding in all."""
    near = x.float()
    away = torch.nextafter(near, torch.where(near.double() < x, torch.inf, -torch.inf).float())
    odd = (near.view(torch.int32) & 1).bool() | (near.double() == x) | ~near.isfinite()
    return torch.where(odd, near, away).to(half)


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray, rounding: str = "rn") -> np.ndarray:
    """a * b + c, exact and then rounded; only finite rows are exact, the others go numpy's way."""
    rows = []
    for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True):
        plain = float(np.float64(x) * np.float64(y) + np.float64(z))
        exact = Fraction(x) * Fraction(y) + Fraction(z) if all(map(math.isfinite, (x, y, z))) else None
        rows.append(f32(plain) if not exact else rounded(exact, rounding))
    return np.array(rows, f32)


def rounded(exact: Fraction, rounding: str) -> f32:
    """A fraction as float32, in one rounding."""
    nearest = f32(float(exact))
    if not np.isfinite(nearest):
        outward = rounding in ("rn", "rp" if exact > 0 else "rm")
        return nearest if outward else np.copysign(np.finfo(f32).max, nearest)
    candidates = sorted({nearest, np.nextafter(nearest, f32(np.inf)), np.nextafter(nearest, f32(-np.inf))})
    distances = {c: abs(Fraction(float(c)) - exact) for c in candidates if np.isfinite(c)}
    if rounding == "rn":
        return min(distances, key=lambda c: (distances[c], int(c.view(np.uint32)) & 1))
    if rounding == "rm" or (rounding == "rz" and exact > 0):
        return max(c for c in distances if Fraction(float(c)) <= exact)
    return min(c for c in distances if Fraction(float(c)) >= exact)


def flush(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.finfo(f32).tiny, np.copysign(f32(0), x), x)


def saturated(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), 0, np.clip(x, 0, 1)) + f32(0)


def to_int(kind: type, function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Saturates; NaN gives 0."""
    limits = np.iinfo(kind)

    def apply(x: np.ndarray) -> np.ndarray:
        whole = [0 if math.isnan(v) else v for v in function(x.astype(np.float64)).tolist()]
        return np.array([int(max(limits.min, min(limits.max, v))) for v in whole], kind)

    return apply


def approx(opcode: str, function: Callable[[np.ndarray], np.ndarray], bits: int) -> tuple[Form, int]:
    """A special function with a relative error of at most 2**-bits."""
    return Form(f"{opcode}.approx.f32 {{d}}, {{a}};", ("f32", "f32"), function), bits


EXACT = [
    Form("add.f32 {d}, {a}, {b};", ("f32",) * 3, lambda a, b: a + b),
    Form("sub.ftz.f32 {d}, {a}, {b};", ("f32",) * 3, lambda a, b: flush(flush(a) - flush(b))),
    Form("mul.rn.f32 {d}, {a}, {b};", ("f32",) * 3, lambda a, b: a * b),
    Form("mul.sat.f32 {d}, {a}, {b};", ("f32",) * 3, lambda a, b: saturated(a * b)),
    Form("div.rn.f32 {d}, {a}, {b};", ("f32",) * 3, lambda a, b: a / b),
    Form("add.f64 {d}, {a}, {b};", ("f64",) * 3, lambda a, b: a + b),
    Form("mul.f64 {d}, {a}, {b};", ("f64",) * 3, lambda a, b: a * b),
    Form("div.rn.f64 {d}, {a}, {b};", ("f64",) * 3, lambda a, b: a / b),
    *(Form(f"fma.{r}.f32 {{d}}, {{a}}, {{b}}, {{c}};", ("f32",) * 4, lambda a, b, c, r=r: fused(a, b, c, r))
      for r in ("rn", "rz", "rm", "rp")),
    Form("min.f32 {d}, {a}, {b};", ("f32",) * 3, np.fmin),
    Form("max.f32 {d}, {a}, {b};", ("f32",) * 3, np.fmax),
    Form("max.NaN.f32 {d}, {a}, {b};", ("f32",) * 3, np.maximum),
    Form("min.f64 {d}, {a}, {b};", ("f64",) * 3, np.fmin),
    Form("abs.f32 {d}, {a};", ("f32",) * 2, np.abs),
    Form("copysign.f32 {d}, {a}, {b};", ("f32",) * 3, lambda a, b: np.copysign(b, a)),
    Form("neg.f32 {d}, {a};", ("f32",) * 2, np.negative),
    Form("sqrt.rn.f32 {d}, {a};", ("f32",) * 2, np.sqrt),
    Form("rcp.rn.f32 {d}, {a};", ("f32",) * 2, lambda a: f32(1) / a),
    Form("setp.lt.f32 {d}, {a}, {b};", ("pred", "f32", "f32"), lambda a, b: a < b),
    Form("setp.leu.f32 {d}, {a}, {b};", ("pred", "f32", "f32"), lambda a, b: ~(a > b)),
    Form("setp.ne.f32 {d}, {a}, {b};", ("pred", "f32", "f32"), lambda a, b: (a != b) & ~np.isnan(a) & ~np.isnan(b)),
    Form("setp.neu.f32 {d}, {a}, {b};", ("pred", "f32", "f32"), lambda a, b: a != b),
    Form("setp.nan.f32 {d}, {a}, {b};", ("pred", "f32", "f32"), lambda a, b: np.isnan(a) | np.isnan(b)),
    Form("setp.num.f64 {d}, {a}, {b};", ("pred", "f64", "f64"), lambda a, b: ~np.isnan(a) & ~np.isnan(b)),
    Form("selp.f32 {d}, {a}, {b}, {c};", ("f32", "f32", "f32", "pred"), lambda a, b, c: np.where(c, a, b)),
    Form("cvt.f64.f32 {d}, {a};", ("f64", "f32"), lambda a: a),
    Form("cvt.rn.f32.f64 {d}, {a};", ("f32", "f64"), lambda a: a),
    Form("cvt.rn.f32.s32 {d}, {a};", ("f32", "s32"), lambda a: a),
    Form("cvt.rn.f32.u64 {d}, {a};", ("f32", "u64"), lambda a: a),
    Form("cvt.rzi.s32.f32 {d}, {a};", ("s32", "f32"), to_int(np.int32, np.trunc)),
    Form("cvt.rni.s32.f32 {d}, {a};", ("s32", "f32"), to_int(np.int32, np.rint)),
    Form("cvt.rmi.s64.f32 {d}, {a};", ("s64", "f32"), to_int(np.int64, np.floor)),
    Form("cvt.rpi.u32.f64 {d}, {a};", ("u32", "f64"), to_int(np.uint32, np.ceil)),
    Form("cvt.rni.f32.f32 {d}, {a};", ("f32", "f32"), np.rint),
    Form("cvt.sat.f32.f32 {d}, {a};", ("f32", "f32"), saturated),
]  # fmt: skip
HALF_TYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
HALVES = [
    Form(text.format(t=suffix, d="{d}", a="{a}", b="{b}", c="{c}"), (suffix,) * count, halves(dtype, function))
    for name, dtype in HALF_TYPES.items() for suffix in (name, name + "x2")
    for text, count, function in (
        ("fma.rn.{t} {d}, {a}, {b}, {c};", 4, lambda a, b, c: a * b + c),
        ("min.{t} {d}, {a}, {b};", 3, torch.minimum),
        ("max.{t} {d}, {a}, {b};", 3, torch.maximum),
        ("neg.{t} {d}, {a};", 2, torch.neg),
        ("abs.{t} {d}, {a};", 2, torch.abs),
        *(() if name == "bf16" else (("add.rn.{t} {d}, {a}, {b};", 3, torch.add),
                                     ("sub.rn.{t} {d}, {a}, {b};", 3, torch.sub),
                                     ("mul.rn.{t} {d}, {a}, {b};", 3, torch.mul))),
    )
]  # fmt: skip
for name, dtype in HALF_TYPES.items():
    to = lambda a, dtype=dtype: torch.from_numpy(a.copy()).to(dtype).view(torch.uint16).numpy()  # noqa: E731
    HALVES += [
        Form(f"cvt.rn.{name}.f32 {{d}}, {{a}};", (name, "f32"), to),
        Form(f"cvt.f32.{name} {{d}}, {{a}};", ("f32", name), lambda a, dtype=dtype: as_half(a, dtype).float().numpy()),
        Form(f"cvt.rn.{name}x2.f32 {{d}}, {{a}}, {{b}};", (f"{name}x2", "f32", "f32"),
             lambda a, b, to=to: to(a).astype(np.uint32) << 16 | to(b)),
    ]  # fmt: skip
HALVES.append(Form("setp.lt.f16 {d}, {a}, {b};", ("pred", "f16", "f16"),
                   lambda a, b: (as_half(a, torch.float16) < as_half(b, torch.float16)).numpy()))  # fmt: skip
APPROXIMATE = [
    approx("ex2", np.exp2, 22), approx("lg2", np.log2, 20), approx("rcp", np.reciprocal, 22),
    approx("sqrt", np.sqrt, 22), approx("rsqrt", lambda a: 1 / np.sqrt(a), 21), approx("tanh", np.tanh, 10),
]  # fmt: skip
FORMS = [*EXACT, *HALVES, *(form for form, _ in APPROXIMATE)]


@pytest.fixture(scope="module")
def results() -> list[np.ndarray]:
    return execute(load_ptx("floats", kernel("floats", FORMS)), "floats", FORMS)


def is_nan(bits: np.ndarray, ptx_type: str) -> np.ndarray:
    return as_half(bits, HALF_TYPES[ptx_type]).isnan().numpy()


@pytest.mark.parametrize("number", range(len(EXACT) + len(HALVES)), ids=lambda number: FORMS[number].text.split()[0])
def test_exact(results: list[np.ndarray], number: int) -> None:
    form, operands, result = FORMS[number], tables(FORMS)[number], results[number]
    if form.types[0] in HALF_TYPES:  # NaN has many encodings
        expected = form.expected(*operands)
        nan = is_nan(expected, form.types[0]) & is_nan(result, form.types[0])
        result = np.where(nan, expected, result)
    if form.types[0] in ("f16x2", "bf16x2") and form.text.startswith("cvt"):
        half = HALF_TYPES[form.types[0].removesuffix("x2")]
        given, wanted = as_half(result, half), as_half(form.expected(*operands), half)
        assert torch.equal(given.nan_to_num(0.5), wanted.nan_to_num(0.5))
        return
    assert_equal(form, operands, result)


@pytest.mark.parametrize("number", range(len(APPROXIMATE)), ids=lambda number: APPROXIMATE[number][0].text.split()[0])
def test_approximate(results: list[np.ndarray], number: int) -> None:
    (form, bits), place = APPROXIMATE[number], len(EXACT) + len(HALVES) + number
    (given,) = tables(FORMS)[place]
    with np.errstate(all="ignore"):
        expected = form.expected(given.astype(np.float64))
    result = results[place].astype(np.float64)
    special = ~np.isfinite(expected) | (np.abs(expected) < np.finfo(f32).tiny) | (np.abs(expected) > np.finfo(f32).max)
    error = np.abs(result[~special] - expected[~special]) / np.maximum(np.abs(expected[~special]), 2.0**-6)
    assert error.max() <= 2.0**-bits
    assert np.array_equal(np.isnan(result), np.isnan(expected))
