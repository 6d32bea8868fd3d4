"""Builds the table of libraries below; metadata and version are in pyproject.toml.

MTP_EXT_BUILD=auto (default) builds the CPU libraries, and the CUDA library where nvcc is found. =cuda: both, or an
error. =cpu: the CPU libraries alone. =none: pure Python; every op then runs on its reference.
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent))  # pip leaves it out
import build_cuda

BUILD = os.environ.get("MTP_EXT_BUILD", "auto")
if BUILD not in ("auto", "cpu", "cuda", "none"):
    raise SystemExit(f"MTP_EXT_BUILD must be auto, cpu, cuda or none, got {BUILD!r}")
NVCC = build_cuda.find_nvcc() if BUILD in ("auto", "cuda") else None
if BUILD == "cuda" and NVCC is None:
    raise SystemExit("MTP_EXT_BUILD=cuda: found no nvcc in CUDA_HOME, on the path or in /usr/local/cuda")

# One library per CPU instruction set, named as torch.backends.cpu.get_cpu_capability() names it; import loads one.
INSTRUCTION_SETS = {"default": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"]

CPU_SOURCES = [
    "csrc/cache_checks.cpp",
    "csrc/cpu/append_binding.cpp",
    "csrc/cpu/argmax_kernel.cpp",
    "csrc/cpu/branch_normalizers_binding.cpp",
    "csrc/cpu/branch_pass.cpp",
    "csrc/cpu/cache_values.cpp",
    "csrc/cpu/commit_binding.cpp",
    "csrc/cpu/brgemm.cpp",
    "csrc/cpu/joint_topk_binding.cpp",
    "csrc/cpu/joint_topk_kernel.cpp",
    "csrc/cpu/linear_into_binding.cpp",
    "csrc/cpu/marginalize_binding.cpp",
    "csrc/cpu/marginalize_targets_binding.cpp",
    "csrc/cpu/marginalize_topk_binding.cpp",
    "csrc/cpu/merge_states_binding.cpp",
    "csrc/cpu/mix_branches_binding.cpp",
    "csrc/cpu/mix_layers_binding.cpp",
    "csrc/cpu/mix_layers_kernel.cpp",
    "csrc/cpu/mixture_kernel.cpp",
    "csrc/cpu/mixture_topk_kernel.cpp",
    "csrc/cpu/normalizer_kernel.cpp",
    "csrc/cpu/select_branches_binding.cpp",
    "csrc/cpu/select_branches_kernel.cpp",
    "csrc/cpu/skinny_linear_binding.cpp",
    "csrc/cpu/skinny_linear_call.cpp",
    "csrc/cpu/skinny_linear_kernel.cpp",
    "csrc/cpu/skinny_linear_topk_binding.cpp",
    "csrc/cpu/target_row_kernel.cpp",
    "csrc/cpu/token_masses_kernel.cpp",
    "csrc/cpu/tree_attention_binding.cpp",
    "csrc/cpu/tree_attention_kernel.cpp",
    "csrc/cpu/verify_greedy_binding.cpp",
    "csrc/cpu/verify_sampling_binding.cpp",
    "csrc/cpu/verify_sampling_kernel.cpp",
    "csrc/cpu/verify_values.cpp",
    "csrc/verify_checks.cpp",
]
CUDA_SOURCES = [
    "csrc/cache_checks.cpp",
    "csrc/cuda/append_binding.cpp",
    "csrc/cuda/branch_normalizers_binding.cpp",
    "csrc/cuda/commit_binding.cpp",
    "csrc/cuda/joint_topk_binding.cpp",
    "csrc/cuda/launch.cpp",
    "csrc/cuda/marginalize_binding.cpp",
    "csrc/cuda/marginalize_targets_binding.cpp",
    "csrc/cuda/marginalize_topk_binding.cpp",
    "csrc/cuda/merge_states_binding.cpp",
    "csrc/cuda/mix_branches_binding.cpp",
    "csrc/cuda/tree_attention_binding.cpp",
    "csrc/cuda/select_branches_binding.cpp",
    "csrc/cuda/verify_greedy_binding.cpp",
    "csrc/cuda/verify_sampling_binding.cpp",
    "csrc/verify_checks.cpp",
]
CUDA_KERNELS = [
    "csrc/cuda/append_launch.cu",
    "csrc/cuda/branch_normalizers_launch.cu",
    "csrc/cuda/branch_sums_launch.cu",
    "csrc/cuda/commit_launch.cu",
    "csrc/cuda/joint_topk_launch.cu",
    "csrc/cuda/merge_states_launch.cu",
    "csrc/cuda/mix_targets_launch.cu",
    "csrc/cuda/mixture_launch.cu",
    "csrc/cuda/mixture_topk_launch.cu",
    "csrc/cuda/tree_attention_launch.cu",
    "csrc/cuda/select_branches_launch.cu",
    "csrc/cuda/verify_greedy_launch.cu",
    "csrc/cuda/verify_sampling_launch.cu",
]
HOST_SOURCES = [
    "csrc/host/best_first.cpp",
    "csrc/host/merge_paths.cpp",
    "csrc/host/module.cpp",
    "csrc/host/ngram_index.cpp",
    "csrc/host/optimal_shape.cpp",
    "csrc/host/tree_structure.cpp",
]
COMPILE = ["-std=c++17", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
# torch's stable headers leave parameters unused; gcc 12's AVX-512 headers read undefined registers on purpose.
COMPILE += ["-Wno-unused-parameter", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]


def libraries() -> tuple[list, type]:
    """The extension modules to build and the command that builds them."""
    import pybind11
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    class BuildLibraries(BuildExtension):
        """Gives each library its own object folder: the same sources are compiled once per instruction set."""

        def build_extension(self, ext) -> None:
            if ext.name == "mtp_ext._cuda":
                ext.extra_objects = build_cuda.compile_objects(NVCC, CUDA_KERNELS)
            shared, self.build_temp = self.build_temp, str(Path(self.build_temp) / ext.name)
            super().build_extension(ext)
            self.build_temp = shared

    extensions = [
        CppExtension(
            f"mtp_ext._cpu_{name}",
            CPU_SOURCES,
            extra_compile_args=[*COMPILE, *flags],
            extra_link_args=["-s"],
            py_limited_api=True,
        )
        for name, flags in INSTRUCTION_SETS.items()
    ]
    extensions.append(
        CppExtension(
            "mtp_ext._host",
            HOST_SOURCES,
            include_dirs=[pybind11.get_include()],
            extra_compile_args=COMPILE,
            extra_link_args=["-s"],
        )
    )
    if NVCC is not None:
        toolkit = build_cuda.toolkit(NVCC)
        targets = build_cuda.describe(build_cuda.targets())
        extensions.append(
            CppExtension(
                "mtp_ext._cuda",
                CUDA_SOURCES,
                include_dirs=[str(toolkit / "include")],
                extra_compile_args=[*COMPILE, f'-DMTP_EXT_CUDA_TARGETS="{targets}"'],
                library_dirs=[str(toolkit / "lib64"), str(toolkit / "lib")],
                libraries=["cudart"],
                # libcudart: the one that torch has loaded, or NVIDIA's package beside ours, or the toolkit's.
                extra_link_args=["-s", "-Wl,-rpath,$ORIGIN/../nvidia/cu13/lib", f"-Wl,-rpath,{toolkit / 'lib64'}"],
                py_limited_api=True,
            )
        )
    return extensions, BuildLibraries


if BUILD == "none":
    setup()
else:
    extensions, command = libraries()
    setup(ext_modules=extensions, cmdclass={"build_ext": command})
