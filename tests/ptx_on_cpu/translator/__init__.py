"""PTX, as nvcc writes it, to C++ that runs on the runtime beside this folder."""

from . import approximations, arithmetic, atomics, bitwise, compare, control, convert, matrices, memory, warp
from .emit import write_kernel
from .kernel import Kernel
from .module import Unsupported, parse

__all__ = ["Unsupported", "translate"]

# Importing a family registers its instructions.
FAMILIES = (approximations, arithmetic, atomics, bitwise, compare, control, convert, matrices, memory, warp)


def translate(ptx: str, file: str) -> dict[str, str]:
    """The C++ of every kernel in the text of one PTX file, by the kernel's mangled name.

    Raises Unsupported, which names the kernel, the line and the instruction.
    """
    module = parse(ptx, file)
    translated = {}
    for entry in module.entries:
        kernel = Kernel(entry, module)
        kernel.translate()
        translated[entry.name] = write_kernel(kernel)
    return translated
