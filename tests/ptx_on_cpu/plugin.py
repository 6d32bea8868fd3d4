"""A pytest plugin: existing tests run on nvcc's PTX, executed on the CPU.

    python -m pytest -p tests.ptx_on_cpu.plugin tests/test_marginalize.py --ptx-arch compute_90 --ptx-schedule reverse

CPU tensors then go through the CUDA bindings, launchers and kernels. A test fails where the runner reports a fault.
"""

import json
import re
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest

from ..cuda_budget.budget import launches_beyond, read_budget
from .build import ARCHITECTURES
from .control import Control
from .load import load_extension

CASES = Path(__file__).with_name("cases.toml")
_CONTROL = pytest.StashKey[Control]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ptx_on_cpu")
    group.addoption("--ptx-arch", default="compute_80", choices=ARCHITECTURES, help="which PTX to execute")
    group.addoption("--ptx-schedule", default="in-order", help="in-order, reverse or random:SEED")
    group.addoption("--ptx-cases", choices=("schedules", "once"), help=f"run only the tests of a table of {CASES.name}")
    group.addoption("--ptx-counts", metavar="FILE", help="write bank conflicts and sectors to this file, as JSON")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest.py can import mtp_ext."""
    options = early_config.known_args_namespace
    control = load_extension(options.ptx_arch, options.ptx_schedule)
    control.count(bool(options.ptx_counts))
    early_config.stash[_CONTROL] = control


def control_of(config: pytest.Config) -> Control:
    """What tests ask the runner by."""
    return config.stash[_CONTROL]


def pytest_configure(config: pytest.Config) -> None:
    """Executing PTX is slow: hypothesis draws a few examples where it would draw forty."""
    from hypothesis import settings

    settings.register_profile("ptx_on_cpu", max_examples=5, deadline=None, derandomize=True)
    settings.load_profile("ptx_on_cpu")


def pytest_report_header(config: pytest.Config) -> str:
    return f"ptx_on_cpu: {config.getoption('--ptx-arch')}, schedule {config.getoption('--ptx-schedule')}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    table = config.getoption("--ptx-cases")
    if not table:
        return
    listed = {file: [re.compile(name) for name in names] for file, names in read_cases(table).items()}
    keep = [item for item in items if any(name.fullmatch(item.name) for name in listed.get(item.path.name, []))]
    dropped = set(items) - set(keep)
    config.hook.pytest_deselected(items=[item for item in items if item in dropped])
    items[:] = keep


def read_cases(table: str) -> dict[str, list[str]]:
    """By file of tests/: regular expressions that match the whole name of a test, parameters included."""
    cases: dict[str, dict[str, list[str]]] = tomllib.loads(CASES.read_text())
    return cases[table]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    control = control_of(item.config)
    control.take_faults()
    control.take_log()
    try:
        result = yield
    except BaseException:
        if faults := control.take_faults():
            item.add_report_section("call", "ptx_on_cpu", faults)
        raise
    if faults := control.take_faults():
        pytest.fail(f"the runner reports:\n{faults}", pytrace=False)
    if sentences := set(launches_beyond(read_budget(), control.take_log())):
        pytest.fail("\n".join(sorted(sentences)), pytrace=False)
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    if path := session.config.getoption("--ptx-counts"):
        Path(path).write_text(json.dumps(session.config.stash[_CONTROL].take_counts(), indent=1))
