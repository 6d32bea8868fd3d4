"""Instructions to test one by one: a small PTX kernel executes many of them on a table of operands.

A Form is one instruction with its operands and a plain computation. Operands and results are 8-byte slots in memory;
thread t of one block takes row t of each operand's table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tests.ptx_on_cpu.sample import Sample

THREADS = 64
_WIDTHS = {"pred": 8, "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16,
           "b32": 32, "u32": 32, "s32": 32, "f32": 32, "f16x2": 32, "bf16x2": 32,
           "b64": 64, "u64": 64, "s64": 64, "f64": 64}  # fmt: skip
_NUMPY = {"b": np.uint64, "u8": np.uint8, "s8": np.int8, "u16": np.uint16, "s16": np.int16, "u32": np.uint32,
          "s32": np.int32, "u64": np.uint64, "s64": np.int64, "f32": np.float32, "f64": np.float64, "b8": np.uint8,
          "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "f16": np.uint16, "bf16": np.uint16,
          "f16x2": np.uint32, "bf16x2": np.uint32, "pred": np.uint8}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """`text` names operands {d}, {a}, {b}, {c}; `types` are theirs, the result first."""

    text: str
    types: tuple[str, ...]
    expected: Callable[..., Any]  # of numpy arrays, one an operand
    tables: tuple[Any, ...] = ()  # operands' values where the usual ones will not do


def values(ptx_type: str, seed: int) -> np.ndarray:
    """Special values of the type first, then random ones."""
    random = np.random.default_rng(seed)
    if ptx_type in ("f32", "f64"):
        special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, -2.5, 1e-40, 3e38, 2.0**31, -(2.0**31)]
        drawn = random.normal(size=THREADS) * np.exp2(random.integers(-20, 20, THREADS))
        drawn[: len(special)] = random.permutation(special)
        return drawn.astype(_NUMPY[ptx_type])
    if ptx_type in ("f16", "bf16", "f16x2", "bf16x2"):
        half = torch.float16 if ptx_type.startswith("f16") else torch.bfloat16
        count = 2 * THREADS if ptx_type.endswith("x2") else THREADS
        drawn = torch.from_numpy(random.normal(size=count) * np.exp2(random.integers(-6, 6, count))).to(half)
        return drawn.view(torch.uint16).numpy().view(_NUMPY[ptx_type])
    if ptx_type == "pred":
        return random.integers(0, 2, THREADS).astype(np.uint8)
    kind = np.dtype(_NUMPY[ptx_type])
    drawn = random.integers(0, 256, (THREADS, kind.itemsize), dtype=np.uint8).view(kind)[:, 0].copy()
    limits = np.iinfo(kind)
    drawn[:8] = random.permutation(
        np.array([0, 1, 2, 3, limits.max, limits.min, limits.max // 2, limits.max - 1], kind)
    )
    return drawn


def _load(name: str, ptx_type: str, slot: int) -> list[str]:
    width = _WIDTHS[ptx_type]
    address = f"[%in+{8 * THREADS * slot}]"
    if ptx_type == "pred":
        return [f".reg .pred {name};", ".reg .b16 t;", f"ld.global.u8 t, {address};", f"setp.ne.b16 {name}, t, 0;"]
    register = max(width, 16)
    return [f".reg .b{register} {name};", f"ld.global.{'u8' if width == 8 else f'b{width}'} {name}, {address};"]


def kernel(name: str, forms: list[Form]) -> str:
    """A PTX kernel (in, out): each form in a scope of its own."""
    lines, slot = [], 0
    for number, form in enumerate(forms):
        result, *operands = form.types
        body = []
        for operand, ptx_type in zip("abc", operands, strict=False):
            body += ["{", *_load(operand, ptx_type, slot)] if ptx_type == "pred" else _load(operand, ptx_type, slot)
            slot += 1
        closing = ["}" for ptx_type in operands if ptx_type == "pred"]
        body += [f".reg .{'pred' if result == 'pred' else f'b{max(_WIDTHS[result], 16)}'} d;"]
        body += [form.text.format(d="d", a="a", b="b", c="c")]
        to = f"[%out+{8 * THREADS * number}]"
        if result == "pred":
            body += [".reg .b32 r;", "selp.b32 r, 1, 0, d;", f"st.global.b32 {to}, r;"]
        else:
            body += [f"st.global.{'u8' if _WIDTHS[result] == 8 else f'b{_WIDTHS[result]}'} {to}, d;"]
        lines += ["{", *body, *closing, "}"]
    return "\n".join(
        [
            ".version 8.0",
            ".target sm_80",
            ".address_size 64",
            f".visible .entry {name}(.param .u64 {name}_in, .param .u64 {name}_out)",
            "{",
            ".reg .b64 %in, %out, %offset;",
            ".reg .b32 %thread;",
            "mov.u32 %thread, %tid.x;",
            "mul.wide.u32 %offset, %thread, 8;",
            f"ld.param.u64 %in, [{name}_in];",
            f"ld.param.u64 %out, [{name}_out];",
            "add.u64 %in, %in, %offset;",
            "add.u64 %out, %out, %offset;",
            *lines,
            "ret;",
            "}",
            "",
        ]
    )


def tables(forms: list[Form]) -> list[list[np.ndarray]]:
    """The operands of every form."""
    return [
        [np.asarray(form.tables[i], _NUMPY[t]) if form.tables else values(t, 100 * number + i)
         for i, t in enumerate(form.types[1:])]
        for number, form in enumerate(forms)
    ]  # fmt: skip


def execute(sample: Sample, name: str, forms: list[Form]) -> list[np.ndarray]:
    """What the kernel gives for every form."""
    slots = [column for row in tables(forms) for column in row]
    given = np.zeros((len(slots), THREADS), np.uint64)
    for slot, column in zip(given, slots, strict=True):
        slot.view(column.dtype).reshape(THREADS, -1)[:, 0] = column
    out = torch.zeros(len(forms), THREADS, dtype=torch.int64)
    faults = sample.run(name, torch.from_numpy(given.view(np.int64)).clone(), out, block=THREADS)
    assert faults == ""
    raw = out.numpy().view(np.uint64)
    return [
        np.ascontiguousarray(raw[number]).view(_NUMPY[form.types[0]]).reshape(THREADS, -1)[:, 0]
        for number, form in enumerate(forms)
    ]


def assert_equal(form: Form, operands: list[np.ndarray], result: np.ndarray) -> None:
    """Equal bit for bit; one NaN is as good as another."""
    with np.errstate(all="ignore"):
        expected = np.asarray(form.expected(*operands)).astype(result.dtype)
    same = result == expected
    if result.dtype.kind == "f":
        same |= np.isnan(result) & np.isnan(expected)
        same &= np.isnan(result) | (np.signbit(result) == np.signbit(expected))
    for thread in np.flatnonzero(~same)[:1]:
        got, wanted = result[thread], expected[thread]
        raise AssertionError(f"{form.text}: {[column[thread] for column in operands]} gives {got}, not {wanted}")
