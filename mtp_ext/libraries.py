"""Which compiled library was loaded, which not, and why. `mtp-ext info` prints it."""

from dataclasses import dataclass
from pathlib import Path

import torch

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Library:
    """One compiled library: its name, its file where there is one, and why it was loaded or not."""

    name: str
    path: Path | None
    loaded: bool
    reason: str


def _find(name: str) -> Path | None:
    return next(iter(sorted(_FOLDER.glob(f"_{name}*.so"))), None)


def _load(name: str) -> Library:
    path = _find(name)
    if path is None:
        return Library(name, None, False, "not built; its ops run on the PyTorch reference")
    try:
        torch.ops.load_library(path)
    except OSError as error:  # it needs another library: the CUDA runtime, where there is no CUDA
        return Library(name, path, False, f"cannot be loaded: {error.__cause__ or error}")
    return Library(name, path, True, "loaded")


def _load_all() -> list[Library]:
    capability = torch.backends.cpu.get_cpu_capability().lower()
    libraries = []
    for name in ("default", "avx2", "avx512"):
        if name == capability:
            libraries.append(_load(f"cpu_{name}"))
        elif (path := _find(f"cpu_{name}")) is not None:
            libraries.append(Library(f"cpu_{name}", path, False, f"this CPU runs as {capability}"))
    if not any(library.loaded for library in libraries) and _find("cpu_default") is not None:
        libraries = [library for library in libraries if library.name != "cpu_default"]
        libraries.append(_load("cpu_default"))
    return libraries


LIBRARIES: list[Library] = [*_load_all(), _load("cuda")]
