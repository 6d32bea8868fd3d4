"""Collectives of a warp (shfl, vote, match, redux) and barriers."""

from .instruction import Instruction, translates
from .kernel import Kernel
from .module import Unsupported

_SHUFFLES = {"idx": "kIndex", "up": "kUp", "down": "kDown", "bfly": "kButterfly"}
_REDUCTIONS = {"and": "kAnd", "or": "kOr", "xor": "kXor", "add": "kAdd"}


def _two(kernel: Kernel, operand: str, value: str, flag: str, value_type: str) -> str:
    """Writes to `register` or `register|predicate`."""
    first, _, second = (part.strip() for part in operand.partition("|"))
    writes = kernel.write(first, value, value_type)
    return writes + (kernel.write(second, flag, "pred") if second else "")


@translates("shfl")
def shuffle(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("sync", *_SHUFFLES)
    if not ins.has("sync"):
        raise Unsupported("shfl without .sync")
    mode = _SHUFFLES[ins.one_of(*_SHUFFLES)]
    value, lane, clamp, mask = (kernel.read(operand, "u32") for operand in ins.operands[1:])
    call = f"shuffle({kernel.site()}, ShuffleMode::{mode}, {value}, {lane}, {clamp}, {mask})"
    return f"const Shuffled x = {call}; {_two(kernel, ins.operands[0], 'x.value', 'x.in_range', 'b32')}"


@translates("vote")
def vote(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("sync", "all", "any", "uni", "ballot")
    if not ins.has("sync"):
        raise Unsupported("vote without .sync")
    predicate, mask = kernel.read(ins.operands[1], "pred"), kernel.read(ins.operands[2], "u32")
    call = f"const uint32_t votes = ballot({kernel.site()}, {predicate}, {mask}); "
    if ins.has("ballot"):
        return call + kernel.write(ins.operands[0], "votes", "u32")
    held = {"all": f"votes == {mask}", "any": "votes != 0", "uni": f"votes == 0 || votes == {mask}"}
    return call + kernel.write(ins.operands[0], held[ins.one_of(*held)], "pred")


@translates("match")
def match(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("sync", "all", "any")
    value, mask = kernel.read(ins.operands[1], ins.type), kernel.read(ins.operands[2], "u32")
    name = "match_all" if ins.has("all") else "match_any"
    call = f"const Matched x = {name}({kernel.site()}, {value}, {mask}); "
    return call + _two(kernel, ins.operands[0], "x.lanes", "x.all_equal", "b32")


@translates("redux")
def reduce(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("sync", *_REDUCTIONS, "min", "max")
    if ins.type == "f32":
        raise Unsupported("type .f32")
    sign = "Signed" if ins.type[0] == "s" else "Unsigned"
    reduction = _REDUCTIONS.get(ins.one_of(*_REDUCTIONS)) or f"k{ins.one_of('min', 'max').capitalize()}{sign}"
    value, mask = kernel.read(ins.operands[1], "u32"), kernel.read(ins.operands[2], "u32")
    return kernel.write(ins.operands[0], f"reduce({kernel.site()}, Reduction::{reduction}, {value}, {mask})", "u32")


@translates("activemask")
def active_mask(kernel: Kernel, ins: Instruction) -> str:
    raise Unsupported("which lanes are active is left to the hardware: no result may depend on it")


@translates("bar", "barrier")
def barrier(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("cta", "sync", "arrive", "red", "popc", "and", "or", "warp", "aligned")
    if ins.has("warp"):
        return f"sync_warp({kernel.site()}, {kernel.read(ins.operands[0], 'u32')});"
    operands = list(ins.operands)
    predicate = kernel.read(operands.pop(), "pred") if ins.has("red") else ""
    to = operands.pop(0) if ins.has("red") else ""
    name = kernel.read(operands[0], "u32")
    threads = kernel.read(operands[1], "u32") if len(operands) > 1 else "0"
    if ins.has("red"):
        verdict = {"and": "kAnd", "or": "kOr", "popc": "kCount"}[ins.one_of("and", "or", "popc")]
        call = f"barrier_reduce({kernel.site()}, {name}, {threads}, Verdict::{verdict}, {predicate})"
        return kernel.write(to, call, "u32" if ins.has("popc") else "pred")
    return f"{'barrier_arrive' if ins.has('arrive') else 'barrier'}({kernel.site()}, {name}, {threads});"
