"""Instructions that nvcc makes of no sample, written as PTX: stmatrix, red, exit, trap, and hints."""

import pytest
import torch

from tests.ptx_on_cpu.sample import Sample, load_ptx


def kernel(name: str, body: str, declarations: str = "") -> str:
    """`body` finds addresses of 16 bytes a thread in %in and %out, that of the first thread in %first, its number in
    %t."""
    return f"""
.visible .entry {name}(.param .u64 {name}_in, .param .u64 {name}_out)
{{
{declarations}
.reg .pred %p;
.reg .b32 %a, %b, %c, %d, %s, %t;
.reg .b64 %in, %out, %first, %offset;
mov.u32 %t, %tid.x;
mul.wide.u32 %offset, %t, 16;
ld.param.u64 %in, [{name}_in];
ld.param.u64 %first, [{name}_out];
add.u64 %in, %in, %offset;
add.u64 %out, %first, %offset;
{body}
ret;
}}
"""


def store_matrix(name: str, modifier: str) -> str:
    body = f"""
ld.global.v4.b32 {{%a, %b, %c, %d}}, [%in];
mov.u32 %s, tile;
mad.lo.u32 %s, %t, 16, %s;
stmatrix.sync.aligned.m8n8.x4{modifier}.shared.b16 [%s], {{%a, %b, %c, %d}};
bar.warp.sync -1;
ld.shared.v4.b32 {{%a, %b, %c, %d}}, [%s];
st.global.v4.b32 [%out], {{%a, %b, %c, %d}};
"""
    return kernel(name, body, ".shared .align 16 .b8 tile[512];")


PTX = ".version 8.0\n.target sm_90\n.address_size 64\n" + "".join(
    [
        store_matrix("store", ""),
        store_matrix("store_transposed", ".trans"),
        kernel("reduce", "red.global.add.u32 [%first], %t;\nred.global.max.u32 [%first+4], %t;"),
        kernel("leave", "setp.gt.u32 %p, %t, 15;\n@%p exit;\nst.global.u32 [%out], %t;"),
        kernel("stop", "setp.eq.u32 %p, %t, 9;\n@%p trap;"),
        kernel(
            "hint",
            "prefetch.global.L1 [%in];\nprefetchu.L1 [%in];\nnanosleep.u32 20;\ngriddepcontrol.wait;\n"
            "applypriority.global.L2::evict_normal [%in], 128;\nst.global.u32 [%out], %t;",
        ),
    ]
)


@pytest.fixture(scope="module")
def rare() -> Sample:
    return load_ptx("rare", PTX)


@pytest.mark.parametrize("transposed", [False, True])
def test_stmatrix(rare: Sample, transposed: bool) -> None:
    """Register i of lane l is row l / 4, columns 2 (l % 4) and the next, of matrix i, as for ldmatrix."""
    tile = torch.arange(256, dtype=torch.int16).view(4, 8, 8)
    rows = tile.transpose(1, 2) if transposed else tile
    fragment = torch.stack(
        [rows[:, lane // 4, lane % 4 * 2 :][:, :2].contiguous().view(torch.int32)[:, 0] for lane in range(32)]
    )
    out = torch.zeros(256, dtype=torch.int16)
    assert rare.run("store_transposed" if transposed else "store", fragment.contiguous(), out) == ""
    assert out.equal(tile.flatten())


def test_red(rare: Sample) -> None:
    out = torch.zeros(128, dtype=torch.int32)
    assert rare.run("reduce", torch.zeros(128), out) == ""
    assert out[:3].tolist() == [496, 31, 0]


def test_exit_and_hints(rare: Sample) -> None:
    for name, written in (("leave", 16), ("hint", 32)):
        out = torch.full((32, 4), -1, dtype=torch.int32)
        assert rare.run(name, torch.zeros(128), out) == ""
        assert out[:, 0].tolist() == [*range(written), *[-1] * (32 - written)]


def test_trap(rare: Sample) -> None:
    faults = rare.run("stop", torch.zeros(128), torch.zeros(128))
    assert "the kernel executed trap" in faults
    assert "thread (9,0,0)" in faults
