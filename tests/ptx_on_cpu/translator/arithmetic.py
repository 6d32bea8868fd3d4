"""Integer and floating-point arithmetic: add, sub, mul, mad, fma, div, rem, min, max, abs, neg."""

from .instruction import Instruction, translates
from .kernel import Kernel
from .module import Unsupported
from .types import BYTES, FLOATS, HALVES, PAIRS, c_type, widened

_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_ROUNDED = {"add": "add_rounded", "sub": "add_rounded", "mul": "multiply_rounded", "div": "divide_rounded"}
_DIRECTED = {"rz": "Rounding::kZero", "rm": "Rounding::kDown", "rp": "Rounding::kUp"}


def directed(ins: Instruction) -> str:
    """The C++ name of a rounding other than to nearest, "" if there is none."""
    return _DIRECTED.get(ins.one_of(*_DIRECTED), "")


def flushed(ins: Instruction, expression: str) -> str:
    """The expression with .ftz and .sat applied."""
    if ins.has("sat"):
        expression = f"saturate({expression})"
    return f"flush({expression})" if ins.has("ftz") else expression


def read_all(kernel: Kernel, ins: Instruction, ptx_type: str = "") -> list[str]:
    """The source operands; with .ftz, subnormal inputs count as zero."""
    values = [kernel.read(operand, ptx_type or ins.type) for operand in ins.operands[1:]]
    return [f"flush({value})" for value in values] if ins.has("ftz") and ins.type == "f32" else values


def half(kernel: Kernel, ins: Instruction, operation: str) -> str:
    """An operation on 16-bit floats or pairs of them, rounded once; `operation` is a C++ function of doubles."""
    count = len(ins.operands) - 1
    parameters = ", ".join(f"double {name}" for name in "abc"[:count])
    function = f"[]({parameters}) {{ return {operation}; }}"
    if ins.type in PAIRS:
        values = ", ".join(kernel.read(operand, "b32") for operand in ins.operands[1:])
        return kernel.write(ins.operands[0], f"pair_operation<{PAIRS[ins.type]}>({function}, {values})", "b32")
    values = ", ".join(kernel.read(operand, "b16") for operand in ins.operands[1:])
    return kernel.write(ins.operands[0], f"half_operation<{HALVES[ins.type]}>({function}, {values})", "b16")


@translates("add", "sub", "mul", "div", "rem")
def arithmetic(kernel: Kernel, ins: Instruction) -> str:
    t, to = ins.type, ins.operands[0]
    if t in HALVES or t in PAIRS:
        ins.allow("rn")
        return half(kernel, ins, f"a {_SYMBOLS[ins.opcode]} b")
    a, b = read_all(kernel, ins)
    if t in FLOATS:
        ins.allow("rn", *_DIRECTED, "ftz", "sat", *(["approx", "full"] if ins.opcode == "div" else []))
        if rounding := directed(ins):
            b = f"-{b}" if ins.opcode == "sub" else b
            return kernel.write(to, flushed(ins, f"{_ROUNDED[ins.opcode]}({rounding}, {a}, {b})"), t)
        return kernel.write(to, flushed(ins, f"{a} {_SYMBOLS[ins.opcode]} {b}"), t)
    ins.allow(*(["lo", "hi", "wide"] if ins.opcode == "mul" else []))
    if ins.has("wide"):
        w = widened(t)
        return kernel.write(to, f"({c_type(w)}){a} * ({c_type(w)}){b}", w)
    if ins.has("hi"):
        return kernel.write(to, f"multiply_high({a}, {b})", t)
    if ins.opcode in ("div", "rem"):
        name = {"div": "divide", "rem": "remainder"}[ins.opcode]
        return kernel.write(to, f"ptx_on_cpu::{name}<{c_type(t)}>({a}, {b})", t)
    # In 64 unsigned bits nothing overflows that matters: the low bits are the result.
    return kernel.write(to, f"({c_type(t)})((uint64_t){a} {_SYMBOLS[ins.opcode]} (uint64_t){b})", t)


@translates("fma", "mad")
def multiply_add(kernel: Kernel, ins: Instruction) -> str:
    t, to = ins.type, ins.operands[0]
    if t in HALVES or t in PAIRS:
        ins.allow("rn")
        return half(kernel, ins, "a * b + c")
    if t in FLOATS:
        ins.allow("rn", *_DIRECTED, "ftz", "sat")
        values = ", ".join(read_all(kernel, ins))
        rounding = directed(ins)
        return kernel.write(
            to, flushed(ins, f"fma_rounded({rounding}, {values})" if rounding else f"std::fma({values})"), t
        )
    ins.allow("lo", "hi", "wide")
    a, b = (kernel.read(operand, t) for operand in ins.operands[1:3])
    result = widened(t) if ins.has("wide") else t
    c = kernel.read(ins.operands[3], result)
    product = f"multiply_high({a}, {b})" if ins.has("hi") else f"({c_type(result)}){a} * ({c_type(result)}){b}"
    if not ins.has("wide") and not ins.has("hi"):
        product = f"(uint64_t){a} * (uint64_t){b}"
    return kernel.write(to, f"({c_type(result)})((uint64_t)({product}) + (uint64_t){c})", result)


@translates("min", "max")
def extremum(kernel: Kernel, ins: Instruction) -> str:
    t = ins.type
    ins.allow("ftz", "NaN")
    if t in HALVES or t in PAIRS:
        return half(kernel, ins, f"float_{ins.opcode}{'_nan' if ins.has('NaN') else ''}(a, b)")
    values = read_all(kernel, ins)
    if t not in FLOATS:
        return kernel.write(ins.operands[0], f"std::{ins.opcode}<{c_type(t)}>({', '.join(values)})", t)
    result = values[0]  # sm_100 has three operands
    for value in values[1:]:
        result = f"float_{ins.opcode}{'_nan' if ins.has('NaN') else ''}<{c_type(t)}>({result}, {value})"
    return kernel.write(ins.operands[0], result, t)


@translates("abs", "neg")
def sign(kernel: Kernel, ins: Instruction) -> str:
    t, to = ins.type, ins.operands[0]
    ins.allow("ftz")
    if t in HALVES or t in PAIRS:  # by bits: exact, NaN included
        mask = {
            ("abs", 2): "& 0x7fffu",
            ("abs", 4): "& 0x7fff7fffu",
            ("neg", 2): "^ 0x8000u",
            ("neg", 4): "^ 0x80008000u",
        }
        same = f"b{8 * BYTES[t]}"
        return kernel.write(to, f"{kernel.read(ins.operands[1], same)} {mask[ins.opcode, BYTES[t]]}", same)
    (value,) = read_all(kernel, ins)
    if t in FLOATS:
        return kernel.write(to, f"-{value}" if ins.opcode == "neg" else f"std::fabs({value})", t)
    negated = f"({c_type(t)})(0 - (uint64_t){value})"
    return kernel.write(to, negated if ins.opcode == "neg" else f"{value} < 0 ? {negated} : {value}", t)


@translates("copysign")
def copy_sign(kernel: Kernel, ins: Instruction) -> str:
    ins.allow()
    sign_of, magnitude = read_all(kernel, ins)
    return kernel.write(ins.operands[0], f"std::copysign({magnitude}, {sign_of})", ins.type)


@translates("sad", "dp4a", "dp2a", "mul24", "mad24", "addc", "subc", "madc", "testp")
def rare_arithmetic(kernel: Kernel, ins: Instruction) -> str:
    raise Unsupported("arithmetic that no kernel has needed so far")
