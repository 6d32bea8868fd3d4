"""The benchmarks run, agree with the reference and can be reported. No time is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtp_ext.testing import has_kernel

pytestmark = pytest.mark.skipif(
    not has_kernel("marginalize", "cpu"), reason="takes minutes on the reference, and compares it with itself"
)
REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "benchmarks"
BENCHMARKS = sorted(FOLDER.glob("bench_*.py"))


def run(*command: str | Path) -> str:
    # pytest-benchmark measures nothing in a worker of xdist, which this process may be and that one is not.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment["PYTHONPATH"] = os.pathsep.join([str(FOLDER), *sys.path])
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "results.json"
    run("-m", "pytest", *BENCHMARKS, "--smallest", "-p", "no:cacheprovider", f"--benchmark-json={path}")
    return path


def test_every_benchmark_runs(results: Path) -> None:
    ran = {benchmark["fullname"].partition("::")[0] for benchmark in json.loads(results.read_text())["benchmarks"]}
    assert ran == {f"benchmarks/{path.name}" for path in BENCHMARKS}


def test_report_shows_every_op_and_draws(results: Path) -> None:
    text = run(FOLDER / "report.py", results)
    for op in ("marginalize", "marginalize_topk", "joint_topk", "select_branches", "tree_attention"):
        assert f"## {op}\n" in text
    for name in ("report.md", "speed.png", "ceilings.png", "scaling.png", "overhead.png", "memory.png"):
        assert (results.parent / name).stat().st_size > 0


def test_decoding_is_compared(tmp_path: Path) -> None:
    text = run(FOLDER / "decode.py", "--rounds", "1", "--new-tokens", "4", "--kinds", "copy", "--output", str(tmp_path))
    assert "| mtp_ext float32, lookup | " in text
    assert (tmp_path / "speed.png").stat().st_size > 0
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    others = ("llama.cpp", "OpenVINO")
    assert all(record["same_tokens"] for record in records if not record["variant"].startswith(others))
