"""What the translator cannot do is an error that names it; what nvcc writes around instructions is understood."""

import pytest

from tests.ptx_on_cpu.translator import Unsupported, translate


def ptx(body: str, declarations: str = "") -> str:
    kernel = f".visible .entry kernel(\n)\n{{\n.reg .b32 %r<9>;\n{body}\nret;\n}}\n"
    return f".version 9.0\n.target sm_80\n{declarations}\n{kernel}"


@pytest.mark.parametrize("instruction", [
    "frobnicate.b32 %r1, %r2",
    "call foo",
    "wgmma.fence.sync.aligned",
    "cp.async.bulk.commit_group",
    "mbarrier.init.shared.b64 [%r1], 1",
    "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r1}, {%r2}, {%r3}, {%r4}",
    "add.cc.u32 %r1, %r2, %r3",
    "add.foo.s32 %r1, %r2, %r3",
    "shfl.bfly.b32 %r1, %r2, 1, 31",
    "activemask.b32 %r1",
    "ld.shared::cluster.b32 %r1, [%r2]",
    "redux.sync.add.f32 %r1, %r2, -1",
    "prmt.b32.f4e %r1, %r2, %r3, 0",
    "mov.b32 %r1, %clock",
])  # fmt: skip
def test_an_unsupported_instruction_is_named(instruction: str) -> None:
    with pytest.raises(Unsupported) as error:
        translate(ptx(f"{instruction};"), "sample.ptx")
    assert f"`{instruction}`" in str(error.value)
    assert "kernel" in str(error.value)
    assert "sample.ptx:8:" in str(error.value)


def test_a_shared_variable_outside_of_a_kernel_is_refused() -> None:
    with pytest.raises(Unsupported, match="shared variable outside of a kernel"):
        translate(ptx("", ".shared .align 4 .b8 tile[64];"), "sample.ptx")


def test_comments_labels_scopes_and_guards() -> None:
    (text,) = translate(ptx("""
        // add.s32 in a comment;
        .reg .pred %p<2>;
        mov.u32 %r1, %tid.x; /* two
        lines */
        setp.eq.s32 %p1, %r1, 0;
        @!%p1 bra $L_end;
        { .reg .b32 x; mov.b32 x, 7; add.s32 %r2, x, %r1; }
        $L_end:
    """), "sample.ptx").values()  # fmt: skip
    assert "if (!v__p1) { goto v__L_end; }" in text
    assert "v__L_end:;" in text
    assert text.count("7ull") == 1


def test_sources_of_inlined_code_are_those_of_the_kernel() -> None:
    text = translate(ptx("""
        .loc 1 12 3
        bar.sync 0;
        .loc 2 99 3, function_name $L__info_string0, inlined_at 1 15 3
        bar.sync 0;
    """, '.file 1 "/some/where/kernel.cu"\n.file 2 "/other/header.h"'), "sample.ptx")["kernel"]  # fmt: skip
    assert '"kernel.cu:12"' in text
    assert '"kernel.cu:15"' in text
