"""Logic, shifts, and instructions that look for or move single bits and bytes."""

from .instruction import Instruction, translates
from .kernel import Kernel
from .module import Unsupported
from .types import BYTES, c_type

_LOGIC = {"and": "&", "or": "|", "xor": "^"}


@translates(*_LOGIC)
def logic(kernel: Kernel, ins: Instruction) -> str:
    ins.allow()
    a, b = (kernel.read(operand, ins.type) for operand in ins.operands[1:])
    return kernel.write(ins.operands[0], f"{a} {_LOGIC[ins.opcode]} {b}", ins.type)


@translates("not", "cnot")
def invert(kernel: Kernel, ins: Instruction) -> str:
    ins.allow()
    value = kernel.read(ins.operands[1], ins.type)
    inverted = f"!{value}" if ins.type == "pred" or ins.opcode == "cnot" else f"~{value}"
    return kernel.write(ins.operands[0], inverted, ins.type)


@translates("lop3")
def logic3(kernel: Kernel, ins: Instruction) -> str:
    ins.allow()  # also refuses .BoolOp
    a, b, c, table = (kernel.read(operand, "u32") for operand in ins.operands[1:])
    return kernel.write(ins.operands[0], f"logic3({a}, {b}, {c}, {table})", "u32")


@translates("shl", "shr")
def shift(kernel: Kernel, ins: Instruction) -> str:
    ins.allow()
    name = {"shl": "shift_left", "shr": "shift_right"}[ins.opcode]
    value, count = kernel.read(ins.operands[1], ins.type), kernel.read(ins.operands[2], "u32")
    return kernel.write(ins.operands[0], f"{name}<{c_type(ins.type)}>({value}, {count})", ins.type)


@translates("shf")
def funnel_shift(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("l", "r", "wrap", "clamp")
    low, high, count = (kernel.read(operand, "u32") for operand in ins.operands[1:])
    count = f"{count} & 31" if ins.has("wrap") else f"std::min({count}, 32u)"
    name = "funnel_left" if ins.has("l") else "funnel_right"
    return kernel.write(ins.operands[0], f"{name}({low}, {high}, {count})", "u32")


@translates("popc", "clz", "bfind", "brev")
def single_bits(kernel: Kernel, ins: Instruction) -> str:
    ins.allow(*(["shiftamt"] if ins.opcode == "bfind" else []))
    size = BYTES[ins.type]
    if ins.opcode == "bfind":
        name = "highest_bit_shift" if ins.has("shiftamt") else "highest_bit"
        return kernel.write(
            ins.operands[0], f"{name}<{c_type(ins.type)}>({kernel.read(ins.operands[1], ins.type)})", "u32"
        )
    value = kernel.read(ins.operands[1], f"u{8 * size}")
    if ins.opcode == "brev":
        return kernel.write(ins.operands[0], f"reverse_bits({value})", f"u{8 * size}")
    function = "__builtin_popcountll" if ins.opcode == "popc" else "leading_zeros"
    return kernel.write(ins.operands[0], f"{function}({value})", "u32")


@translates("bfe")
def extract(kernel: Kernel, ins: Instruction) -> str:
    ins.allow()
    value = kernel.read(ins.operands[1], ins.type)
    position, length = (kernel.read(operand, "u32") for operand in ins.operands[2:])
    return kernel.write(ins.operands[0], f"extract_bits<{c_type(ins.type)}>({value}, {position}, {length})", ins.type)


@translates("bfi")
def insert(kernel: Kernel, ins: Instruction) -> str:
    ins.allow()
    a, into = (kernel.read(operand, ins.type) for operand in ins.operands[1:3])
    position, length = (kernel.read(operand, "u32") for operand in ins.operands[3:])
    return kernel.write(
        ins.operands[0], f"insert_bits<{c_type(ins.type)}>({a}, {into}, {position}, {length})", ins.type
    )


@translates("prmt")
def permute_bytes(kernel: Kernel, ins: Instruction) -> str:
    ins.allow()  # also refuses the modes .f4e and so on
    a, b, selector = (kernel.read(operand, "u32") for operand in ins.operands[1:])
    return kernel.write(ins.operands[0], f"permute_bytes({a}, {b}, {selector})", "u32")


@translates("fns", "bmsk", "szext")
def rare_bits(kernel: Kernel, ins: Instruction) -> str:
    raise Unsupported("an instruction on bits that no kernel has needed so far")
