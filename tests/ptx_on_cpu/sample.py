"""Runs single kernels and host functions of a sample, with torch tensors as device memory."""

import ctypes
import struct
from pathlib import Path

import torch

from .build import FOLDER, build_sample, write_if_changed
from .control import Control


class Address(int):
    """A pointer that is no tensor's."""


Argument = torch.Tensor | Address | int | float


def _pack(arguments: tuple[Argument, ...]) -> bytes:
    """As a kernel's parameters lie in memory: tensors are pointers, int is 32 bits, float is float32."""
    packed = b""
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            argument = Address(argument.data_ptr())
        packed += bytes(-len(packed) % (8 if isinstance(argument, Address) else 4))
        if isinstance(argument, Address):
            packed += struct.pack("<Q", argument)
        else:
            packed += struct.pack("<i" if isinstance(argument, int) else "<f", argument)
    return packed


class Sample:
    """A loaded library of translated kernels, and of launchers where its source has some."""

    def __init__(self, control: Control, library: ctypes.CDLL) -> None:
        self.control = control
        self.library = library

    def run(self, kernel: str, *arguments: Argument, grid: int = 1, block: int = 32, shared: int = 0,
            schedule: str = "in-order") -> str:  # fmt: skip
        """Runs one kernel. Returns the report of a fault, "" where there was none."""
        self.control.set_schedule(schedule)
        triple = ctypes.c_uint * 3
        packed = ctypes.create_string_buffer(_pack(arguments) + bytes(16))
        self.control.call("ptx_on_cpu_run", kernel.encode(), triple(grid, 1, 1), triple(block, 1, 1), shared, packed)
        return self.control.take_faults()

    def host(self, function: str, *arguments: torch.Tensor | Address | int) -> int:
        """Calls a host function of the sample: tensors and addresses become pointers."""
        converted = [
            ctypes.c_void_p(a.data_ptr())
            if isinstance(a, torch.Tensor)
            else ctypes.c_void_p(a)
            if isinstance(a, Address)
            else a
            for a in arguments
        ]
        return getattr(self.library, function)(*converted)


def load_sample(source: Path) -> Sample:
    """Builds and loads one .cu or .ptx file."""
    built = build_sample(source)
    control = Control(built.runtime)
    ctypes.CDLL(str(built.torch_memory)).ptx_on_cpu_watch_torch()
    return Sample(control, ctypes.CDLL(str(built.extension)))


def load_ptx(name: str, ptx: str) -> Sample:
    """The kernels of a text of PTX."""
    source = FOLDER / "samples" / f"{name}.ptx"
    write_if_changed(source, ptx)
    return load_sample(source)
