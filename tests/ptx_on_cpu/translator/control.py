"""Branches and ends."""

from .instruction import Instruction, translates
from .kernel import Kernel, identifier
from .module import Unsupported


@translates("bra")
def branch(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("uni")
    return f"goto {identifier(ins.operands[0])};"


@translates("ret", "exit")
def leave(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("uni")
    return "return;"


@translates("trap")
def trap(kernel: Kernel, ins: Instruction) -> str:
    return f"trap({kernel.site()});"


@translates("call", "brx")
def call(kernel: Kernel, ins: Instruction) -> str:
    raise Unsupported("calls and indirect branches; functions must be inlined (printf and assert are calls too)")
