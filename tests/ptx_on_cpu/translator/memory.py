"""Loads, stores, moves of addresses between state spaces, fences, hints."""

from .instruction import Instruction, translates, vector
from .kernel import Kernel
from .module import Unsupported
from .types import BYTES, c_type

_SPACES = ("global", "shared", "local", "param", "const")
_STRONG = ("volatile", "relaxed", "acquire", "release")
_SCOPES = ("cta", "gpu", "sys", "weak")
_CACHE = ("ca", "cg", "cs", "lu", "cv", "wb", "wt", "L1", "L2", "no_allocate", "nc")


def _strength(ins: Instruction) -> str:
    if ins.has("nc"):
        return "Strength::kConstant"
    return "Strength::kStrong" if ins.one_of(*_STRONG) else "Strength::kWeak"


@translates("ld")
def load(kernel: Kernel, ins: Instruction) -> str:
    ins.allow(*_SPACES, *_STRONG, *_SCOPES, *_CACHE, "v2", "v4", "v8")
    space = ins.one_of(*_SPACES) or "generic"
    registers, size = vector(ins.operands[0]), BYTES[ins.type]
    gets = " ".join(kernel.write(r, f"get<{c_type(ins.type)}>(p, {i})", ins.type) for i, r in enumerate(registers))
    if space == "param":
        name, _, offset = ins.operands[1].strip("[] ").partition("+")
        if name.strip() in kernel.parameter_offsets:
            start = kernel.parameter_offsets[name.strip()] + int(offset or "0", 0)
            return f"const uint8_t* p = parameters + {start}; {gets}"
        where = f"{kernel.site()}, {kernel.address(ins.operands[1])}, {size * len(registers)}"
        return f"const uint8_t* p = load_parameter({where}); {gets}"
    arguments = f"{kernel.site()}, {kernel.address(ins.operands[1])}, {size * len(registers)}"
    if space == "local":
        return f"const uint8_t* p = local({arguments}); {gets}"
    if space == "const":
        space = "global"
    return f"const uint8_t* p = load_{space}({arguments}, {_strength(ins)}); {gets}"


@translates("st")
def store(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("global", "shared", "local", *_STRONG, *_SCOPES, *_CACHE, "v2", "v4", "v8")
    space = ins.one_of("global", "shared", "local") or "generic"
    values = vector(ins.operands[1])
    arguments = f"{kernel.site()}, {kernel.address(ins.operands[0])}, {BYTES[ins.type] * len(values)}"
    puts = " ".join(f"put<{c_type(ins.type)}>(p, {i}, {kernel.read(v, ins.type)});" for i, v in enumerate(values))
    if space == "local":
        return f"uint8_t* p = local({arguments}); {puts}"
    return f"uint8_t* p = store_{space}({arguments}, {_strength(ins)}); {puts}"


@translates("mov")
def move(kernel: Kernel, ins: Instruction) -> str:
    ins.allow()
    to, value = ins.operands
    size = BYTES[ins.type]
    if to.startswith("{"):
        parts = vector(to)
        part = 8 * size // len(parts)
        writes = (kernel.write(r, f"x >> {i * part}", f"b{part}") for i, r in enumerate(parts) if r != "_")
        return f"const uint64_t x = {kernel.read(value, f'b{8 * size}')}; {' '.join(writes)}"
    if value.startswith("{"):
        parts = vector(value)
        part = 8 * size // len(parts)
        joined = " | ".join(f"(uint64_t){kernel.read(r, f'b{part}')} << {i * part}" for i, r in enumerate(parts))
        return kernel.write(to, joined, f"b{8 * size}")
    return kernel.write(to, kernel.read(value, ins.type), ins.type)


@translates("cvta")
def convert_address(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("to", *_SPACES)
    value = kernel.read(ins.operands[1], "u64")
    if ins.has("shared"):
        value = f"{'generic_to_shared' if ins.has('to') else 'shared_to_generic'}({value})"
    return kernel.write(ins.operands[0], value, "u64")


@translates("isspacep")
def is_in_space(kernel: Kernel, ins: Instruction) -> str:
    raise Unsupported("a test of the state space")


@translates("membar", "fence")
def fence(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("gl", "gpu", "sys", "cta", "acq_rel", "sc", "acquire", "release", "proxy", "async")
    return "" if ins.has("cta") or ins.has("proxy") else "fence();"


@translates("prefetch", "prefetchu", "applypriority", "nanosleep", "griddepcontrol")
def hint(kernel: Kernel, ins: Instruction) -> str:
    """Nothing that a result depends on."""
    return ""
