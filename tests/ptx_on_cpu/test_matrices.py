"""Fragments of ldmatrix and mma, lane by lane, as the PTX ISA draws them."""

import pytest
import torch

from tests.ptx_on_cpu.sample import Sample


def pairs(x: torch.Tensor) -> torch.Tensor:
    """[..., 2] 16-bit numbers as [...] registers."""
    return x.contiguous().view(torch.int32)[..., 0]


def test_ldmatrix(matrices: Sample) -> None:
    tile = torch.arange(256, dtype=torch.int16)
    out = torch.zeros(2, 32, 4, dtype=torch.int32)
    assert matrices.run("load_matrix", tile, out) == ""
    for lane in range(32):
        for i, matrix in enumerate(tile.view(4, 8, 8)):
            row, column = lane // 4, lane % 4 * 2
            assert out[0, lane, i] == pairs(matrix[row, column : column + 2])
            assert out[1, lane, i] == pairs(matrix.T[row, column : column + 2])


def fragment_a(a: torch.Tensor) -> torch.Tensor:
    """Of [16, k]: register i of lane l holds row l / 4 + 8 (i % 2), columns 2 (l % 4) + 8 (i / 2) and the next."""
    return torch.stack(
        [
            torch.stack([pairs(a[lane // 4 + 8 * (i % 2), 2 * (lane % 4) + 8 * (i // 2) :][:2])
                         for i in range(a.shape[1] // 4)])
            for lane in range(32)
        ]
    )  # fmt: skip


def fragment_b(b: torch.Tensor) -> torch.Tensor:
    """Of [k, 8]: register i of lane l holds column l / 4, rows 2 (l % 4) + 8 i and the next."""
    return torch.stack(
        [torch.stack([pairs(b[2 * (lane % 4) + 8 * i :, lane // 4][:2]) for i in range(b.shape[0] // 8)])
         for lane in range(32)]
    )  # fmt: skip


def fragment_c(c: torch.Tensor) -> torch.Tensor:
    """Of [16, 8]: number i of lane l is row l / 4 + 8 (i / 2), column 2 (l % 4) + i % 2."""
    return torch.stack(
        [torch.stack([c[lane // 4 + 8 * (i // 2), 2 * (lane % 4) + i % 2] for i in range(4)]) for lane in range(32)]
    )


@pytest.mark.parametrize(("kernel", "dtype", "k"), [
    ("multiply_bf16", torch.bfloat16, 16), ("multiply_f16", torch.float16, 16), ("multiply_k8", torch.bfloat16, 8),
])  # fmt: skip
@pytest.mark.parametrize("schedule", ["in-order", "random:1"])
def test_mma(matrices: Sample, kernel: str, dtype: torch.dtype, k: int, schedule: str) -> None:
    """Small integers, whose products and sums are exact: any wrong place shows."""
    torch.manual_seed(0)
    a, b = torch.randint(-8, 9, (16, k)).to(dtype), torch.randint(-8, 9, (k, 8)).to(dtype)
    c = torch.randint(-100, 101, (16, 8)).float()
    d = torch.zeros(32, 4)
    faults = matrices.run(kernel, fragment_a(a), fragment_b(b), fragment_c(c), d, schedule=schedule)
    assert faults == ""
    assert d.equal(fragment_c(a.float() @ b.float() + c))
