"""Tiles: ldmatrix, stmatrix, mma, and cp.async, which feeds them."""

from .instruction import Instruction, translates, vector
from .kernel import Kernel
from .module import Unsupported


@translates("ldmatrix")
def load_matrices(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared")
    registers = vector(ins.operands[0])
    transposed = "true" if ins.has("trans") else "false"
    call = f"load_matrices({kernel.site()}, {kernel.address(ins.operands[1])}, {len(registers)}, {transposed}, x);"
    writes = " ".join(kernel.write(register, f"x[{i}]", "b32") for i, register in enumerate(registers))
    return f"uint32_t x[4]; {call} {writes}"


@translates("stmatrix")
def store_matrices(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared")
    registers = vector(ins.operands[1])
    values = ", ".join(kernel.read(register, "b32") for register in registers)
    transposed = "true" if ins.has("trans") else "false"
    call = f"store_matrices({kernel.site()}, {kernel.address(ins.operands[0])}, {len(registers)}, {transposed}, x);"
    return f"const uint32_t x[] = {{{values}}}; {call}"


@translates("mma")
def multiply(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("sync", "aligned", "m16n8k16", "m16n8k8", "row", "col")
    shape, formats = ins.one_of("m16n8k16", "m16n8k8"), ins.modifiers[-4:]
    if not shape or formats not in (("f32", "bf16", "bf16", "f32"), ("f32", "f16", "f16", "f32")):
        raise Unsupported("a shape or type of mma")
    d, a, b, c = (vector(operand) for operand in ins.operands)
    k = 16 if shape == "m16n8k16" else 8
    if (len(a), len(b), len(c), len(d)) != (k // 4, k // 8, 4, 4):
        raise Unsupported("the number of registers of mma")
    fragments = [
        f"const uint32_t a[] = {{{', '.join(kernel.read(r, 'b32') for r in a)}}};",
        f"const uint32_t b[] = {{{', '.join(kernel.read(r, 'b32') for r in b)}}};",
        f"const float c[] = {{{', '.join(kernel.read(r, 'f32') for r in c)}}};",
    ]
    kind = "kBf16" if formats[1] == "bf16" else "kF16"
    call = f"float d[4]; multiply_matrices({kernel.site()}, MatrixFormat::{kind}, {k}, a, b, c, d);"
    return " ".join([*fragments, call, *(kernel.write(r, f"d[{i}]", "f32") for i, r in enumerate(d))])


@translates("cp")
def copy_async(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("async", "ca", "cg", "shared", "global", "commit_group", "wait_group", "wait_all", "L2")
    if not ins.has("async"):
        raise Unsupported("cp without .async")
    if ins.has("commit_group"):
        return "commit_async_group();"
    if ins.has("wait_group"):
        return f"wait_async_groups({kernel.read(ins.operands[0], 'u32')});"
    if ins.has("wait_all"):
        return "wait_all_async();"
    to, start, size = ins.operands[:3]
    source_size = kernel.read(ins.operands[3], "u32") if len(ins.operands) > 3 else size
    if kernel.register_type(source_size) == "pred":
        raise Unsupported("cp.async with ignore-src")
    return f"copy_async({kernel.site()}, {kernel.address(to)}, {kernel.address(start)}, {size}, {source_size});"
