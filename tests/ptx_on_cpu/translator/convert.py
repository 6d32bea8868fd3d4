"""cvt: between integers, floats, 16-bit floats and pairs of them."""

from .arithmetic import directed
from .instruction import Instruction, translates
from .kernel import Kernel
from .module import Unsupported
from .types import BYTES, FLOATS, HALVES, PAIRS, c_type

_TO_INTEGER = {"rni": "std::nearbyint", "rzi": "std::trunc", "rmi": "std::floor", "rpi": "std::ceil"}
_FROM_HALF = {"f16": "f16_to_float", "bf16": "bf16_to_float"}


def _to_half(ins: Instruction, half: str, value: str, source: str) -> str:
    if ins.has("relu"):
        value = f"float_max<{c_type(source)}>({value}, 0)"
    if ins.has("rz"):
        if half != "bf16" or source != "f32":
            raise Unsupported(f"rounding .rz from .{source} to .{half}")
        return f"float_to_bf16_toward_zero({value})"
    if source in ("f32", *HALVES):
        return f"float_to_{half}({value})"
    return f"double_to_{half}((double){value})"


@translates("cvt")
def convert(kernel: Kernel, ins: Instruction) -> str:
    ins.allow("rn", "rz", "rm", "rp", "ftz", "sat", "relu", *_TO_INTEGER)
    to, to_type, from_type = ins.operands[0], ins.modifiers[-2], ins.modifiers[-1]
    if to_type in PAIRS:
        half = to_type.removesuffix("x2")
        high, low = (_to_half(ins, half, kernel.read(operand, "f32"), "f32") for operand in ins.operands[1:])
        return kernel.write(to, f"(uint32_t){high} << 16 | {low}", "b32")
    if from_type in PAIRS:
        raise Unsupported("a conversion from a pair")
    if from_type in HALVES:
        value = f"{_FROM_HALF[from_type]}({kernel.read(ins.operands[1], 'b16')})"
    else:
        value = kernel.read(ins.operands[1], from_type)
    if ins.has("ftz") and from_type == "f32":
        value = f"flush({value})"
    if to_type in HALVES:
        if ins.has("sat"):
            value = f"saturate({value})"
        return kernel.write(to, _to_half(ins, to_type, value, from_type), "b16")
    if from_type not in FLOATS and from_type not in HALVES:
        return kernel.write(to, _from_integer(ins, value, to_type, from_type), to_type)
    if rounding := ins.one_of(*_TO_INTEGER):
        value = f"{_TO_INTEGER[rounding]}({value})"
    if to_type not in FLOATS:
        if not rounding:
            raise Unsupported("a float to integer conversion without its rounding")
        return kernel.write(to, f"to_integer<{c_type(to_type)}>({value})", to_type)
    value = _to_float(ins, value, to_type)
    return kernel.write(to, f"saturate({value})" if ins.has("sat") else value, to_type)


def _to_float(ins: Instruction, value: str, to_type: str) -> str:
    if rounding := directed(ins):
        if to_type != "f32":
            raise Unsupported(f"directed rounding to .{to_type}")
        return f"to_float_rounded({rounding}, (double){value})"
    return f"({c_type(to_type)}){value}"


def _from_integer(ins: Instruction, value: str, to_type: str, from_type: str) -> str:
    if to_type in FLOATS:
        if directed(ins) and BYTES[from_type] == 8:
            raise Unsupported("directed rounding of a 64-bit integer")
        return _to_float(ins, value, to_type)
    if ins.has("sat") and to_type[0] != "b":
        limits = f"std::numeric_limits<{c_type(to_type)}>"
        if BYTES[to_type] < 8:
            return f"std::clamp<__int128>({value}, {limits}::min(), {limits}::max())"
        raise Unsupported(f"saturation to .{to_type}")
    return f"({c_type(to_type)}){value}"
