"""Registers, shared memory, spills, occupancy and instructions of the CUDA kernels, against cuda_budget/budget.toml."""

import re
from dataclasses import replace

import pytest
from cuda_budget import machine_code
from cuda_budget.budget import Budget, BudgetFile, launches_beyond, read_budget, violations
from cuda_budget.machine_code import KernelCode
from cuda_budget.occupancy import LIMITS, blocks_per_sm
from laws import built_libraries

# Kernels that go through logits, keys, values or states, all of which lie in rows.
READ_ROWS = (
    "append_kernel",
    "commit_kernel",
    "joint_topk_kernel",
    "merge_states_kernel",
    "mix_kernel",
    "select_branches_kernel",
    "sum_branches_kernel",
    "tree_attention_kernel",
    "tree_attention_merge",
    "verify_greedy_kernel",
    "verify_sampling_kernel",
)
WRITE_ROWS = ("append_kernel", "commit_kernel", "merge_states_kernel", "mix_kernel", "tree_attention_merge")


@pytest.fixture(scope="module")
def budget() -> BudgetFile:
    return read_budget()


@pytest.mark.parametrize("library", built_libraries("cuda"))
def test_machine_code_is_within_its_budget(library: object, budget: BudgetFile) -> None:
    release = machine_code.compiler_release()
    if release is None:
        pytest.skip(f"{machine_code.CUBINS} holds no machine code: the library was built elsewhere")
    if release != budget.nvcc:
        pytest.skip(f"the budget is for machine code of nvcc {budget.nvcc}, this is of nvcc {release}")
    if machine_code.find_disassembler() is None:
        pytest.skip(machine_code.NO_DISASSEMBLER)
    wrong = list(violations(budget, machine_code.read_kernels()))
    assert not wrong, "\n".join([*wrong, "If the change is meant, `make cuda-budget` writes the new numbers."])


@pytest.mark.parametrize("library", built_libraries("cuda"))
def test_no_float_is_added_atomically(library: object) -> None:
    """Sums would depend on who comes first."""
    files = list(machine_code.CUBINS.glob("*/*.ptx"))
    if not files:
        pytest.skip(f"{machine_code.CUBINS} holds no PTX: the library was built elsewhere")
    atomic = re.compile(r"\b(atom|red)\.[\w.:]*\.(b?f16|f32|f64)")
    assert [found[0] for path in files for found in atomic.finditer(path.read_text())] == []


def test_every_kernel_has_a_budget_on_every_architecture(budget: BudgetFile) -> None:
    assert [name for name, kernel in budget.kernels.items() if set(kernel.rows) != set(LIMITS)] == []


def test_no_kernel_spills(budget: BudgetFile) -> None:
    rows = {(name, sm): row for name, kernel in budget.kernels.items() for sm, row in kernel.rows.items()}
    assert [place for place, row in rows.items() if row["spills"] != 0] == []


def test_rows_are_read_by_16_bytes(budget: BudgetFile) -> None:
    """But those of verify_greedy that are not logits: it takes tokens too."""
    kernels = {name: kernel for name, kernel in budget.kernels.items() if name.partition("<")[0] in READ_ROWS}
    assert {name.partition("<")[0] for name in kernels} == set(READ_ROWS)
    without = [name for name, kernel in kernels.items() if any(row["loads_16"] == 0 for row in kernel.rows.values())]
    assert without == ["verify_greedy_kernel<long>"]


def test_rows_are_written_by_16_bytes(budget: BudgetFile) -> None:
    kernels = {name: kernel for name, kernel in budget.kernels.items() if name.partition("<")[0] in WRITE_ROWS}
    assert {name.partition("<")[0] for name in kernels} == set(WRITE_ROWS)
    assert [name for name, kernel in kernels.items() if any(r["stores_16"] == 0 for r in kernel.rows.values())] == []


def test_attention_in_16_bits_uses_tensor_cores(budget: BudgetFile) -> None:
    """And nothing else does: float32 is never multiplied as TF32."""
    with_products = {name for name, kernel in budget.kernels.items() if any(r["hmma"] for r in kernel.rows.values())}
    dims = (64, 128, 256)
    assert with_products == {f"tree_attention_kernel<{t}, {dim}>" for t in ("bfloat16", "float16") for dim in dims}
    assert all(row["hmma"] > 0 for name in with_products for row in budget.kernels[name].rows.values())


CODE = KernelCode(threads=128, registers=40, shared=64, spills=0, loads_16=2, stores_16=1, hmma=8)
ROW = {"registers": 40, "shared": 64, "spills": 0, "blocks": 12, "loads_16": 2, "stores_16": 1, "hmma": 8}


def violations_of(code: KernelCode) -> list[str]:
    budget = BudgetFile("13.0", {"mix_kernel<float, true>": Budget(128, 0, {"sm_80": ROW})})
    return list(violations(budget, {("mix_kernel<float, true>", "sm_80"): code}))


def test_what_is_within_the_budget_is_not_mentioned() -> None:
    assert violations_of(CODE) == []
    assert violations_of(replace(CODE, registers=32, loads_16=4)) == []


@pytest.mark.parametrize(("change", "sentence"), [
    ({"registers": 41}, "registers must be at most 40, found 41"),
    ({"shared": 65}, "shared must be at most 64, found 65"),
    ({"spills": 2}, "spills must be at most 0, found 2"),
    ({"loads_16": 1}, "loads_16 must be at least 2, found 1"),
    ({"stores_16": 0}, "stores_16 must be at least 1, found 0"),
    ({"hmma": 0}, "hmma must be at least 8, found 0"),
])  # fmt: skip
def test_what_is_outside_is_said(change: dict[str, int], sentence: str) -> None:
    assert f"mix_kernel<float, true> on sm_80: {sentence}" in violations_of(replace(CODE, **change))


def test_fewer_blocks_are_said() -> None:
    (registers, blocks) = violations_of(replace(CODE, registers=48))
    assert registers == "mix_kernel<float, true> on sm_80: registers must be at most 40, found 48"
    assert blocks == "mix_kernel<float, true> on sm_80: blocks must be at least 12, found 10"


def test_a_kernel_without_a_budget_and_a_budget_without_a_kernel_are_said() -> None:
    budget = BudgetFile("13.0", {"old_kernel": Budget(128, 0, {"sm_80": ROW})})
    assert list(violations(budget, {("new_kernel", "sm_80"): CODE})) == [
        "new_kernel on sm_80 has no budget",
        "old_kernel has a budget, but there is no such kernel",
    ]


def test_other_launch_bounds_are_said() -> None:
    sentence = "mix_kernel<float, true>: a block must have 128 threads, found __launch_bounds__ of 256"
    assert sentence in violations_of(replace(CODE, threads=256))


def test_a_launch_beyond_its_budget_is_said() -> None:
    budget = BudgetFile("13.0", {"mix_kernel<float, true>": Budget(128, 64, {"sm_80": ROW})})
    mangled = "_ZN7mtp_ext4cuda10mix_kernelIfLb1EEEvNS0_9MixParamsIT_EE"
    within = f"{mangled} grid=7,2,1 block=128,1,1 shared=64 stream=(nil)"
    assert list(launches_beyond(budget, [within, within.replace("shared=64", "shared=65")])) == [
        "mix_kernel<float, true>: a launch must have at most 128 threads a block and 64 bytes of dynamic shared memory,"
        " found 128 and 65"
    ]


# As cuda_occupancy.h of CUDA 13.0 has it.
@pytest.mark.parametrize(("architecture", "threads", "registers", "shared", "blocks"), [
    ("sm_80", 32, 16, 0, 32), ("sm_86", 32, 16, 0, 16), ("sm_120", 32, 16, 0, 24),  # blocks
    ("sm_80", 1024, 32, 0, 2), ("sm_86", 1024, 32, 0, 1), ("sm_90", 192, 16, 0, 10),  # warps
    ("sm_80", 128, 168, 0, 3), ("sm_80", 128, 169, 0, 2), ("sm_100", 256, 65, 0, 3),  # registers
    ("sm_80", 128, 16, 81920, 2), ("sm_90", 128, 16, 98304, 2), ("sm_89", 128, 16, 81920, 1),  # shared memory
])  # fmt: skip
def test_occupancy(architecture: str, threads: int, registers: int, shared: int, blocks: int) -> None:
    assert blocks_per_sm(architecture, threads=threads, registers=registers, shared=shared) == blocks
