"""What the benchmarks wrote into pytest-benchmark's JSON, read back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Medians, in seconds, of all variants of one op on one case."""

    op: str
    shape: tuple[int, ...]
    dtype: str
    threads: int
    seconds: dict[str, float]
    bytes: int
    exponentials: int
    ceilings: dict[str, float]
    compile_seconds: float = 0.0
    operations: int = 0

    @property
    def case(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {self.dtype} {self.threads}"

    @property
    def rivals(self) -> list[str]:
        return [name for name in self.seconds if name != "ours"]

    def ratio(self, rival: str) -> float:
        """How many times ours is as fast as the rival."""
        return self.seconds[rival] / self.seconds["ours"]

    @property
    def memory_share(self) -> float:
        """Inputs read once and outputs, against the measured bandwidth; above 1 where a cache holds them."""
        return self.bytes / self.seconds["ours"] / self.ceilings["bytes_per_second"]

    @property
    def exponential_share(self) -> float:
        """Exponentials in a second, against the measured rate."""
        return self.exponentials / self.seconds["ours"] / self.ceilings["exponentials_per_second"]

    @property
    def matrix_share(self) -> float:
        """Operations of matrix products in a second, against the measured rate of this dtype."""
        return self.operations / self.seconds["ours"] / self.ceilings[f"{self.dtype}_operations_per_second"]


@dataclass(frozen=True)
class PeakMemory:
    """Bytes beyond inputs and outputs at the peak of one call, by variant."""

    op: str
    shape: tuple[int, ...]
    dtype: str
    threads: int
    peak_bytes: dict[str, int]


@dataclass(frozen=True)
class Results:
    """One run of the benchmarks."""

    machine: dict[str, Any]
    speed: list[Timing]
    scaling: list[Timing]
    overhead: list[Timing]
    memory: list[PeakMemory]

    def speed_of(self) -> dict[str, list[Timing]]:
        """The timings by op, in the order in which they were taken."""
        ops: dict[str, list[Timing]] = {}
        for timing in self.speed:
            ops.setdefault(timing.op, []).append(timing)
        return ops


def rivals_of(timings: list[Timing]) -> list[str]:
    """All that took part in any of them."""
    return list(dict.fromkeys(rival for timing in timings for rival in timing.rivals))


def read(path: Path) -> Results:
    """Reads what `pytest benchmarks/bench_*.py --benchmark-json=PATH` wrote."""
    data = json.loads(path.read_text())
    infos: dict[str, list[dict[str, Any]]] = {"speed": [], "scaling": [], "overhead": [], "memory": []}
    for benchmark in data["benchmarks"]:
        for info in benchmark["extra_info"].get("records", ()):  # some have forms of their own
            infos[benchmark["group"]].append({**info, "shape": tuple(info["shape"])})
    _keep_best_ceilings(infos["speed"] + infos["scaling"])
    return Results(
        machine=data["machine_info"],
        speed=[Timing(**info) for info in infos["speed"]],
        scaling=[Timing(**info) for info in infos["scaling"]],
        overhead=[Timing(**info) for info in infos["overhead"]],
        memory=[PeakMemory(**info) for info in infos["memory"]],
    )


def _keep_best_ceilings(infos: list[dict[str, Any]]) -> None:
    """Measured anew beside each case, perhaps at a busy moment; the best is what the machine can do."""
    best: dict[int, dict[str, float]] = {}
    for info in infos:
        known = best.setdefault(info["threads"], dict(info["ceilings"]))
        for name, rate in info["ceilings"].items():
            known[name] = max(known[name], rate)
    for info in infos:
        info["ceilings"] = best[info["threads"]]
