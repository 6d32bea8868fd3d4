"""The runner's own calls (cudart/control.h), from Python."""

import ctypes
import json
from pathlib import Path
from typing import Any


class Control:
    """The stand-in for libcudart, loaded into this process."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name in ("take_faults", "take_log", "take_counts"):
            getattr(self._library, f"ptx_on_cpu_{name}").restype = ctypes.c_char_p

    def choose_device(self, architecture: str) -> None:
        """The GPU to pretend to be: compute_80, compute_90, compute_100; compute_75 has no code of ours."""
        if self._library.ptx_on_cpu_choose_device(int(architecture.removeprefix("compute_"))):
            raise ValueError(f"no device of {architecture} is known")

    def set_schedule(self, schedule: str) -> None:
        """in-order, reverse or random:SEED."""
        if self._library.ptx_on_cpu_set_schedule(schedule.encode()):
            raise ValueError(f"a schedule must be in-order, reverse or random:SEED, got {schedule}")

    def take_faults(self) -> str:
        """Reports since the last call, "" if there were none."""
        return self._library.ptx_on_cpu_take_faults().decode()

    def take_log(self) -> list[str]:
        """A line for each launch since the last call, and for each wait for the device."""
        return self._library.ptx_on_cpu_take_log().decode().splitlines()

    def count(self, on: bool) -> None:
        """Counts bank conflicts and sectors from now on."""
        self._library.ptx_on_cpu_count(int(on))

    def take_counts(self) -> list[dict[str, Any]]:
        """Counts since the last call, a row an instruction; runtime/statistics.h names the columns."""
        return json.loads(self._library.ptx_on_cpu_take_counts().decode())

    def call(self, name: str, *arguments: Any) -> int:
        """Any function of cudart/control.h or of CUDA's runtime."""
        return getattr(self._library, name)(*arguments)
