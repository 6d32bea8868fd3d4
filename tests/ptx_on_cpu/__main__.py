"""`python -m tests.ptx_on_cpu`, which is `make test-cuda`: every CUDA kernel's tests, on its PTX."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from .build import ARCHITECTURES, HERE, ROOT, build
from .plugin import read_cases

# Tables of cases.toml. Three schedules of the oldest architecture; of the others, whose PTX differs, one each. The
# longest comes first: several run at a time.
RUNS = (
    ("once", "compute_80", "in-order"),
    ("schedules", "compute_80", "in-order"),
    ("schedules", "compute_80", "reverse"),
    ("schedules", "compute_80", "random:1"),
    ("schedules", "compute_90", "random:2"),
    ("schedules", "compute_100", "reverse"),
)


def pytest(title: str, arguments: list[str]) -> int:
    """One pytest process; its output is printed when it has ended."""
    command = [sys.executable, "-m", "pytest", "-q", "--durations=3", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    print(f"ptx_on_cpu: {title}: started", flush=True)
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(f"ptx_on_cpu: {title}: ended\n{ended.stdout}{ended.stderr}", flush=True)
    return ended.returncode


def run_own_tests() -> int:
    """Those of the runner itself."""
    return pytest("tests of the runner itself", [str(HERE)])


def run(table: str, architecture: str, schedule: str) -> int:
    """The tests of one table."""
    files = [str(ROOT / "tests" / file) for file in read_cases(table)]
    options = ["--ptx-cases", table, "--ptx-arch", architecture, "--ptx-schedule", schedule]
    return pytest(f"{table}, {architecture}, {schedule}", ["-p", "tests.ptx_on_cpu.plugin", *options, *files])


def main() -> int:
    sys.path.insert(0, str(ROOT))
    import build_cuda

    if build_cuda.find_nvcc() is None:
        print("ptx_on_cpu: SKIPPED, there is no nvcc: the CUDA kernels were neither compiled nor tested")
        return 0
    for architecture in ARCHITECTURES:
        print(f"ptx_on_cpu: building for {architecture}", flush=True)
        build(architecture)
    jobs = int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))
    with ThreadPoolExecutor(jobs) as pool:
        running = {" ".join(each): pool.submit(run, *each) for each in RUNS}
        running["tests of the runner itself"] = pool.submit(run_own_tests)
    failed = [name for name, each in running.items() if each.result()]
    outcome = f"FAILED: {failed}" if failed else "all passed"
    print(f"ptx_on_cpu: {len(running)} runs, {outcome}; see {HERE / 'README.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
