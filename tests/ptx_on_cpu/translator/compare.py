"""Comparison and selection: setp, set, selp, slct."""

from .instruction import Instruction, translates
from .kernel import Kernel
from .types import FLOATS, HALVES, c_type

_SYMBOLS = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "lo": "<", "ls": "<=", "hi": ">", "hs": ">=",
    "equ": "==", "neu": "!=", "ltu": "<", "leu": "<=", "gtu": ">", "geu": ">=",
}  # fmt: skip
_UNORDERED = ("equ", "neu", "ltu", "leu", "gtu", "geu")  # true where an operand is NaN
_LOGIC = {"and": "&", "or": "|", "xor": "^"}


def _comparison(kernel: Kernel, ins: Instruction, ptx_type: str) -> str:
    """The C++ condition on the first two source operands."""
    compare = ins.one_of(*_SYMBOLS, "num", "nan")
    if ptx_type in HALVES:
        convert = {"f16": "f16_to_float", "bf16": "bf16_to_float"}[ptx_type]
        a, b = (f"{convert}({kernel.read(operand, 'b16')})" for operand in ins.operands[1:3])
    else:
        a, b = (kernel.read(operand, ptx_type) for operand in ins.operands[1:3])
    if ptx_type not in FLOATS and ptx_type not in HALVES:
        return f"{a} {_SYMBOLS[compare]} {b}"
    if ins.has("ftz"):
        a, b = f"flush({a})", f"flush({b})"
    unordered = f"(std::isnan({a}) || std::isnan({b}))"
    if compare in ("num", "nan"):
        return unordered if compare == "nan" else f"!{unordered}"
    if compare in _UNORDERED:
        return f"{unordered} || {a} {_SYMBOLS[compare]} {b}"
    return f"!{unordered} && {a} {_SYMBOLS[compare]} {b}"


@translates("setp")
def set_predicate(kernel: Kernel, ins: Instruction) -> str:
    ins.allow(*_SYMBOLS, "num", "nan", "ftz", *_LOGIC)
    combine = ins.one_of(*_LOGIC)

    def result(condition: str) -> str:
        return f"({condition}) {_LOGIC[combine]} {kernel.read(ins.operands[3], 'pred')}" if combine else condition

    first, _, second = (part.strip() for part in ins.operands[0].partition("|"))
    writes = kernel.write(first, result("holds"), "pred")
    if second:
        writes = f"const bool other = {result('!holds')}; {writes} {kernel.write(second, 'other', 'pred')}"
    return f"const bool holds = {_comparison(kernel, ins, ins.type)}; {writes}"


@translates("set")
def set_value(kernel: Kernel, ins: Instruction) -> str:
    """All ones or 1.0 where the comparison holds."""
    ins.allow(*_SYMBOLS, "num", "nan", "ftz")
    to_type, from_type = ins.modifiers[-2], ins.modifiers[-1]
    true, false = ("1.0f", "0.0f") if to_type == "f32" else ("-1", "0")
    return kernel.write(ins.operands[0], f"({_comparison(kernel, ins, from_type)}) ? {true} : {false}", to_type)


@translates("selp")
def select(kernel: Kernel, ins: Instruction) -> str:
    ins.allow()
    a, b = (kernel.read(operand, ins.type) for operand in ins.operands[1:3])
    return kernel.write(ins.operands[0], f"{kernel.read(ins.operands[3], 'pred')} ? {a} : {b}", ins.type)


@translates("slct")
def select_by_sign(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("ftz")
    value_type, sign_type = ins.modifiers[-2], ins.modifiers[-1]
    a, b = (kernel.read(operand, value_type) for operand in ins.operands[1:3])
    sign = kernel.read(ins.operands[3], sign_type)
    return kernel.write(ins.operands[0], f"{sign} >= ({c_type(sign_type)})0 ? {a} : {b}", value_type)
