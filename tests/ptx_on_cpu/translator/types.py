"""PTX types: their sizes and the C++ types that hold them."""

BYTES = {
    "pred": 1, "b8": 1, "u8": 1, "s8": 1,
    "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2,
    "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4,
    "b64": 8, "u64": 8, "s64": 8, "f64": 8,
}  # fmt: skip
FLOATS = ("f32", "f64")
HALVES = {"f16": "F16", "bf16": "Bf16"}
PAIRS = {"f16x2": "F16", "bf16x2": "Bf16"}


def unsigned(size: int) -> str:
    """The C++ type of so many bytes."""
    return f"uint{8 * size}_t"


def c_type(ptx_type: str) -> str:
    """The C++ type in which arithmetic of this PTX type is done; 16-bit floats stay bits."""
    if ptx_type in ("pred", "f32", "f64"):
        return {"pred": "bool", "f32": "float", "f64": "double"}[ptx_type]
    return f"int{8 * BYTES[ptx_type]}_t" if ptx_type[0] == "s" else unsigned(BYTES[ptx_type])


def bits(ptx_type: str) -> str:
    """The untyped PTX type of the same size."""
    return f"b{8 * BYTES[ptx_type]}"


def widened(ptx_type: str) -> str:
    """The type of a wide product."""
    return f"{ptx_type[0]}{16 * BYTES[ptx_type]}"
