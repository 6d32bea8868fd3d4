"""Special functions: computed exactly, then rounded. A GPU's .approx may differ by what the PTX ISA states."""

from .arithmetic import directed, flushed, half, read_all
from .instruction import Instruction, translates
from .kernel import Kernel
from .module import Unsupported
from .types import FLOATS, HALVES, PAIRS

_FUNCTIONS = {
    "ex2": "std::exp2({})",
    "lg2": "std::log2({})",
    "rcp": "1 / {}",
    "sqrt": "std::sqrt({})",
    "rsqrt": "1 / std::sqrt({})",
    "sin": "std::sin({})",
    "cos": "std::cos({})",
    "tanh": "std::tanh({})",
}
_ROUNDED = {"rcp": "divide_rounded({0}, decltype({1})(1), {1})", "sqrt": "sqrt_rounded({}, {})"}


@translates(*_FUNCTIONS)
def special_function(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("approx", "rn", "ftz", *(["rz", "rm", "rp"] if ins.opcode in _ROUNDED else []))
    if ins.type in HALVES or ins.type in PAIRS:
        return half(kernel, ins, _FUNCTIONS[ins.opcode].format("a"))
    if ins.type not in FLOATS:
        raise Unsupported(f"type .{ins.type}")
    (value,) = read_all(kernel, ins)
    if rounding := directed(ins):
        call = _ROUNDED[ins.opcode].format(rounding, value)
        return kernel.write(ins.operands[0], flushed(ins, call), ins.type)
    return kernel.write(ins.operands[0], flushed(ins, _FUNCTIONS[ins.opcode].format(value)), ins.type)
