"""atom and red: read, change and write in one step."""

from .instruction import Instruction, translates
from .kernel import Kernel
from .module import Unsupported
from .types import BYTES, FLOATS, HALVES, PAIRS, c_type

_CHANGES = {
    "add": "old + b",
    "min": "std::min(old, b)",
    "max": "std::max(old, b)",
    "and": "old & b",
    "or": "old | b",
    "xor": "old ^ b",
    "exch": "b",
    "inc": "old >= b ? 0 : old + 1",
    "dec": "old == 0 || old > b ? b : old - 1",
    "cas": "old == b ? c : old",
}
_ORDERS = ("relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys", "noftz", "L2")


@translates("atom", "red")
def atomic(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("global", "shared", *_ORDERS, *_CHANGES)
    t, change = ins.type, ins.one_of(*_CHANGES)
    if t in HALVES or t in PAIRS or (t in FLOATS and change != "add"):
        raise Unsupported(f"atomic .{change} of .{t}")
    to, operands = ("", ins.operands) if ins.opcode == "red" else (ins.operands[0], ins.operands[1:])
    space, c = ins.one_of("global", "shared") or "generic", c_type(t)
    code = "fence(); " if ins.one_of("release", "acq_rel") else ""
    code += f"const {c} {', '.join(f'{n} = {kernel.read(v, t)}' for n, v in zip('bc', operands[1:], strict=False))}; "
    code += f"uint8_t* p = update_{space}({kernel.site()}, {kernel.address(operands[0])}, {BYTES[t]}); "
    code += f"const {c} old = get<{c}>(p, 0); put<{c}>(p, 0, {_CHANGES[change]});"
    return code + (kernel.write(to, "old", t) if to else "")
