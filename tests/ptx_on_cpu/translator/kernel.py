"""Translates one kernel: keeps its registers and symbols, and asks the families of instructions for C++."""

import re

from .instruction import TRANSLATIONS, Instruction, split_operands
from .module import Entry, Module, Statement, Unsupported
from .types import BYTES, FLOATS, bits, c_type, unsigned

_SPECIAL = {
    "%laneid": "here.lane()",
    "%warpid": "here.warp()",
    "%lanemask_lt": "here.lanes_below()",
    "%lanemask_le": "(here.lanes_below() << 1 | 1)",
    "%lanemask_gt": "~(here.lanes_below() << 1 | 1)",
    "%lanemask_ge": "~here.lanes_below()",
    "%lanemask_eq": "(1u << here.lane())",
    "%dynamic_smem_size": "here.dynamic_shared",
    "WARP_SZ": "32",
    **{f"%{name}.{axis}": f"here.{member}.{axis}" for axis in "xyz" for name, member in
       (("tid", "thread"), ("ntid", "block_size"), ("ctaid", "block"), ("nctaid", "grid"))},
}  # fmt: skip


def identifier(name: str) -> str:
    """A PTX name as a C++ name that no name of the runtime equals."""
    return "v_" + re.sub(r"\W", "_", name)


class Kernel:
    """State of the translation of one entry; the families of instructions call its methods."""

    def __init__(self, entry: Entry, module: Module) -> None:
        self.entry = entry
        self.module = module
        self.lines: list[str] = []  # C++
        self.sites: list[tuple[str, int, str]] = []  # text, line, source
        self.used_variables: set[str] = set()
        self._registers: list[dict[str, str]] = [{}]  # a scope each: name or "prefix<" -> type
        self._locals: set[str] = set()
        self._source = ""
        self._text, self._line = "", 0
        self.parameter_offsets: dict[str, int] = {}
        self.parameter_bytes = 0
        for parameter in entry.parameters:
            offset = -(-self.parameter_bytes // parameter.align) * parameter.align
            self.parameter_offsets[parameter.name] = offset
            self.parameter_bytes = offset + parameter.bytes
        self.shared_offsets: dict[str, int] = {}
        self.shared_extent = self.shared_bytes = 0
        for variable in entry.shared:
            self.shared_offsets[variable.name] = self.shared_extent
            apart = 64  # bytes that belong to nobody: an overrun is seen
            self.shared_extent = -(-(self.shared_extent + variable.bytes + apart) // 128) * 128
            self.shared_bytes = -(-self.shared_bytes // variable.align) * variable.align + variable.bytes
        self.shared_offsets.update(dict.fromkeys(module.dynamic_shared, self.shared_extent))

    # ---- operands -----------------------------------------------------------------------------------------

    def register_type(self, name: str) -> str:
        """The type under which a register was declared, "" if `name` is none."""
        prefix = name.rstrip("0123456789") + "<"
        return next((s.get(name) or s[prefix] for s in reversed(self._registers) if name in s or prefix in s), "")

    def read(self, operand: str, ptx_type: str) -> str:
        """A C++ expression for the operand, of c_type(ptx_type)."""
        if operand.startswith("!"):
            return f"(!{self.read(operand[1:], 'pred')})"
        declared = self.register_type(operand)
        if declared:
            name = identifier(operand)
            if "pred" in (declared, ptx_type):
                return name
            if ptx_type in FLOATS:
                return f"as<{c_type(ptx_type)}>({name})"
            return f"(({c_type(ptx_type)}){name})"
        if (immediate := self._immediate(operand, ptx_type)) is not None:
            return immediate
        if operand in _SPECIAL:
            return f"(({c_type(ptx_type)}){_SPECIAL[operand]})"
        return f"(({c_type(ptx_type)}){self._symbol(operand)})"

    def _immediate(self, operand: str, ptx_type: str) -> str | None:
        if found := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", operand):
            return f"as<float>(0x{found[1]}u)" if ptx_type == "f32" else f"(({c_type(ptx_type)})0x{found[1]}u)"
        if found := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", operand):
            return f"as<double>(uint64_t(0x{found[1]}u))"
        if not re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", operand):
            return None
        if ptx_type in FLOATS:
            raise Unsupported(f"integer {operand} where a float is expected")
        digits = operand.rstrip("U")
        value = int(digits, 8) if re.fullmatch(r"-?0\d+", digits) else int(digits, 0)
        if ptx_type == "pred":
            return "true" if value else "false"
        return f"(({c_type(ptx_type)}){value % (1 << 64)}ull)"

    def _symbol(self, operand: str) -> str:
        """The address of a variable, plus an offset, in its own state space."""
        name, _, offset = (part.strip() for part in operand.partition("+"))
        offset = offset or "0"
        if name in self.shared_offsets:
            return f"(kSharedWindow + {self.shared_offsets[name]} + {offset})"
        if name in self.parameter_offsets:
            return f"((uintptr_t)parameters + {self.parameter_offsets[name]} + {offset})"
        if name in self._locals:
            return f"((uintptr_t){identifier(name)} + {offset})"
        if any(name == variable.name for variable in self.module.variables):
            self.used_variables.add(name)
            return f"((uintptr_t){identifier(name)} + {offset})"
        raise Unsupported(f"operand {operand}")

    def write(self, operand: str, expression: str, ptx_type: str) -> str:
        """A C++ statement that puts an expression of c_type(ptx_type) into a register."""
        if operand == "_":
            return f"(void)({expression});"
        declared = self.register_type(operand)
        if not declared:
            raise Unsupported(f"destination {operand}")
        name = identifier(operand)
        if declared == "pred":
            return f"{name} = ({expression});"
        if ptx_type in FLOATS:
            return f"{name} = as<{c_type(bits(ptx_type))}>(({c_type(ptx_type)})({expression}));"
        return f"{name} = ({unsigned(BYTES[declared])})({c_type(ptx_type)})({expression});"

    def address(self, operand: str) -> str:
        """`[register + offset]` or `[variable + offset]` as a 64-bit address of its state space."""
        found = re.fullmatch(r"\[\s*([^+\]]+?)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
        if not found:
            raise Unsupported(f"address {operand}")
        base, offset = found[1], int(found[2] or "0", 0)
        declared = self.register_type(base)
        start = self.read(base, "u64" if declared.endswith("64") else "u32") if declared else self._symbol(base)
        return f"(uint64_t){start} + ({offset}ll)"

    def site(self) -> str:
        """The C++ name of this instruction's Site."""
        self.sites.append((self._text, self._line, self._source))
        if len(self.sites) >= 1 << 16:
            raise Unsupported("more than 65,535 instructions that touch memory or meet other threads")
        return f"sites[{len(self.sites) - 1}]"

    # ---- statements ---------------------------------------------------------------------------------------

    def translate(self) -> None:
        """Fills `lines`; raises Unsupported with the kernel, the line and the instruction."""
        for statement in self.entry.statements:
            try:
                self._statement(statement)
            except (Unsupported, KeyError, IndexError, StopIteration) as error:
                reason = str(error) if isinstance(error, Unsupported) else f"operands or modifiers ({error!r})"
                raise Unsupported(
                    f"{self.module.file}:{statement.line}: unsupported in kernel {self.entry.name}: "
                    f"`{statement.text}`: {reason}"
                ) from error

    def _statement(self, statement: Statement) -> None:
        text = statement.text
        if text == "{":
            self._registers.append({})
            self.lines.append("{")
        elif text == "}":
            self._registers.pop()
            self.lines.append("}")
        elif text.endswith(":"):
            self.lines.append(f"{identifier(text[:-1])}:;")
        elif text.startswith("."):
            self._directive(text)
        else:
            self._instruction(statement)

    def _directive(self, text: str) -> None:
        name = text.split()[0]
        if name == ".reg":
            self._declare_registers(text)
        elif name == ".local":
            found = re.fullmatch(r"\.local\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d+)\]", text)
            if not found:
                raise Unsupported("local variable")
            self._locals.add(found[2])
            self.lines.append(f"alignas({max(16, int(found[1]))}) uint8_t {identifier(found[2])}[{found[3]}];")
        elif name == ".loc":
            # The place in the kernel's own file, where the code of a header was inlined.
            where = re.search(r"inlined_at (\d+) (\d+)", text) or re.match(r"\.loc (\d+) (\d+)", text)
            if where and where[2] != "0":
                self._source = f"{self.module.sources.get(int(where[1]), '?')}:{where[2]}"
        elif name not in (".shared", ".pragma"):
            raise Unsupported(f"directive {name}")

    def _declare_registers(self, text: str) -> None:
        found = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text)
        if not found or found[1] not in BYTES:
            raise Unsupported("register type")
        cpp = "bool" if found[1] == "pred" else unsigned(BYTES[found[1]])
        for name in (part.strip() for part in found[2].split(",")):
            numbered = re.fullmatch(r"([%\w$]+)<(\d+)>", name)
            names = [f"{numbered[1]}{i}" for i in range(int(numbered[2]))] if numbered else [name]
            self._registers[-1][numbered[1] + "<" if numbered else name] = found[1]
            # No initial values: gotos may jump over declarations.
            self.lines.append(f"{cpp} {', '.join(identifier(each) for each in names)};")

    def _instruction(self, statement: Statement) -> None:
        text, guard = statement.text, ""
        if found := re.match(r"@(!?)\s*([%\w$]+)\s+(.*)", text):
            guard, text = f"{found[1]}{identifier(found[2])}", found[3]
        name, _, operands = text.partition(" ")
        opcode, *modifiers = name.split(".")
        self._text, self._line = statement.text, statement.line
        # Hints of caches (L2::128B) mean nothing here, and shared::cta is shared.
        modifiers = [re.sub(r"^(shared)::cta$|^(L1|L2)::\w+$", r"\1\2", modifier) for modifier in modifiers]
        instruction = Instruction(text, statement.line, guard, opcode, tuple(modifiers), split_operands(operands))
        if opcode not in TRANSLATIONS:
            raise Unsupported("this instruction is not translated")
        code = TRANSLATIONS[opcode](self, instruction)
        self.lines.append(f"if ({guard}) {{ {code} }}" if guard else f"{{ {code} }}")
