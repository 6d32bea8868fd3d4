"""Writes the C++ of one kernel."""

import json

from .kernel import Kernel, identifier
from .types import c_type


def _variables(kernel: Kernel) -> list[str]:
    """Constant tables of the module that this kernel reads. Each kernel has its own copy, so none may be written."""
    lines = []
    for variable in kernel.module.variables:
        if variable.name not in kernel.used_variables:
            continue
        name = identifier(variable.name)
        initial = f" = {{{variable.values}}}" if variable.values else ""
        lines += [
            f"alignas({max(variable.align, 16)}) {c_type(variable.type)} {name}[{variable.count}]{initial};",
            f'const ModuleVariable announce_{name}("{variable.name}", {name}, sizeof {name});',
        ]
    return lines


def write_kernel(kernel: Kernel) -> str:
    """A C++ file that defines the kernel and announces it when it is loaded."""
    entry = kernel.entry
    text = json.dumps  # a C string literal for all that PTX can contain
    sites = [f"  {{{text(t)}, {line}, {text(source)}, nullptr, 0}}," for t, line, source in kernel.sites]
    parameters = [f"{{{kernel.parameter_offsets[p.name]}, {p.bytes}}}," for p in entry.parameters]
    shared = [f'{{"{v.name}", {kernel.shared_offsets[v.name]}, {v.bytes}}},' for v in entry.shared]
    exact = "true" if entry.exact_threads else "false"
    return "\n".join(
        [
            f"// Translated from {kernel.module.file}: {entry.name}",
            '#include "runtime/interface.h"',
            "using namespace ptx_on_cpu;",
            "namespace {",
            *_variables(kernel),
            "Site sites[] = {\n" + "\n".join(sites) + "\n  {nullptr, 0, nullptr, nullptr, 0}};",
            "void body([[maybe_unused]] const uint8_t* parameters) {",
            *kernel.lines,
            "}",
            f"const Parameter parameters[] = {{{' '.join(parameters)} {{0, 0}}}};",
            f"const SharedVariable shared[] = {{{' '.join(shared)} {{nullptr, 0, 0}}}};",
            f'const Kernel kernel = {{"{entry.name}", {text(kernel.module.file)}, {kernel.module.target},',
            f"    body, sites, {len(kernel.sites)}, parameters, {len(parameters)}, {kernel.parameter_bytes}, "
            f"shared, {len(shared)},",
            f"    {kernel.shared_extent}, {kernel.shared_bytes}, {entry.max_threads}, {exact}}};",
            "const Announcement announcement(kernel);",
            "}",
            "",
        ]
    )
