"""The compiled libraries call only what stays: torch's stable C interface and the C and C++ run-time libraries."""

import ctypes
import re
import struct
from pathlib import Path

import pytest
import torch
from laws import built_libraries

from mtp_ext.libraries import Library

# What these two declare is torch's stable C interface.
STABLE_HEADERS = ["torch/csrc/inductor/aoti_torch/c/shim.h", "torch/csrc/stable/c/shim.h"]
UNDEFINED, WEAK, DYNAMIC_SYMBOLS = 0, 2, 11  # section index, binding and section type of the ELF standard


def undefined_symbols(path: Path) -> set[str]:
    """What a 64-bit little-endian ELF library needs from others; weak symbols, which may stay missing, left out."""
    data = path.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", f"{path} is no 64-bit little-endian ELF file"
    (headers,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, headers + i * size) for i in range(count)]
    names = set()
    for _, kind, _, _, offset, length, link, _, _, entry_size in sections:
        if kind != DYNAMIC_SYMBOLS:
            continue
        strings = sections[link][4]
        for place in range(offset + entry_size, offset + length, entry_size):  # the first entry is empty
            name, info, _, section = struct.unpack_from("<IBBH", data, place)
            if section == UNDEFINED and info >> 4 != WEAK:
                names.add(data[strings + name : data.index(b"\0", strings + name)].decode())
    return names


def stable_functions() -> set[str]:
    folder = Path(torch.__file__).parent / "include"
    text = "".join((folder / header).read_text() for header in STABLE_HEADERS)
    return set(re.findall(r"\b(?:aoti_)?torch_\w+(?=\()", text))


def in_run_time_libraries(name: str) -> bool:
    """Whether libstdc++, or what it stands on (libm, libgcc, libc, the loader), has it."""
    return hasattr(ctypes.CDLL("libstdc++.so.6"), name)


@pytest.mark.parametrize("library", built_libraries())
def test_every_undefined_symbol_is_stable(library: Library) -> None:
    names = undefined_symbols(library.path)
    assert "torch_library_impl" in names, "the reader missed what every one of our libraries calls"
    if library.name == "cuda":  # the CUDA runtime keeps its symbols for as long as its library keeps its name
        names = {name for name in names if not name.startswith(("cuda", "__cuda"))}
    others = sorted(name for name in names - stable_functions() if not in_run_time_libraries(name))
    assert not others, f"{library.path.name} needs symbols that a later torch may not have: {others}"


def test_the_reader_sees_unstable_symbols() -> None:
    """torch's own Python module calls torch's C++ by mangled names, as ours must not."""
    names = undefined_symbols(Path(torch.__file__).parent / "lib" / "libtorch_python.so")
    others = [name for name in names - stable_functions() if not in_run_time_libraries(name)]
    assert any(name.startswith("_ZN2at") for name in others)
