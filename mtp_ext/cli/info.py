"""`mtp-ext info`: what was built, what was loaded, and why."""

import argparse
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

import mtp_ext
from mtp_ext import ops
from mtp_ext.libraries import LIBRARIES

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: "Commands") -> None:
    parser = commands.add_parser(
        "info",
        help="versions, instruction set, which kernels were loaded and why",
        description="Prints versions, the CPU's instruction set, and which compiled libraries and kernels are "
        "in use. An op without a kernel runs on its PyTorch reference.",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    facts = list(_facts())
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        print(f"{name:<{width}}{value}")
    return 0


def _facts() -> Iterator[tuple[str, str]]:
    yield "mtp_ext", f"{mtp_ext.__version__}, {mtp_ext.__path__[0]}"
    yield "torch", torch.__version__
    yield "python", platform.python_version()
    yield "compiler", _compiler()
    yield "CPU capability", torch.backends.cpu.get_cpu_capability()
    yield "threads", str(torch.get_num_threads())
    yield "CUDA", _cuda()
    for library in LIBRARIES:
        yield f"library {library.name}", library.reason
    for op in ops.__all__:
        yield f"op {op}", ", ".join(f"{device}: {_implementation(op, device)}" for device in ("CPU", "CUDA"))


def _compiler() -> str:
    try:
        from mtp_ext import _host
    except ImportError:
        return "none: a pure-Python installation"
    return _host.compiler()


def _cuda() -> str:
    if not torch.cuda.is_available():
        return "not available"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _implementation(op: str, device: str) -> str:
    compiled = torch._C._dispatch_has_kernel_for_dispatch_key(f"mtp_ext::{op}", device)
    return "compiled kernel" if compiled else "PyTorch reference"
