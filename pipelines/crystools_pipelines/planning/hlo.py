"""Reads the text of a program that a TPU compiler has optimised and scheduled (`Compiled.as_text()`).

Of an instruction only what an estimate needs; instructions stand in the order in which the chip runs them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

_COMPUTATION = re.compile(r"(ENTRY )?%([^\s(]+) \(.*\{")
_INSTRUCTION = re.compile(r"  (?:ROOT )?%([^\s=]+) = (.*)")
_OPCODE = re.compile(r" *([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")
_PLACED_ARRAY = re.compile(_ARRAY.pattern + r"(\{[^{}]*\})?")
_OPERAND = re.compile(r"%([^\s,(){}]+)")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%([^\s,(){}]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"\bcondition=%([^\s,(){}]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(-?\d+)"')
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OP_NAME = re.compile(r'op_name="([^"]*)"')

_WIDTHS_BYTES = {"pred": 1, "token": 0}


@dataclass(frozen=True)
class Instruction:
    """One instruction; `type` is its result's, `rest` what stands behind the operands."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    rest: str
    argument: str = ""
    """What stands between the parentheses."""

    @property
    def cycles(self) -> int | None:
        """The cycles that the compiler estimates; None where it says nothing."""
        found = _CYCLES.search(self.rest)
        return int(found[1]) if found and int(found[1]) >= 0 else None

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it runs, a loop's condition apart."""
        branches = [name for group in _BRANCHES.findall(self.rest) for name in _OPERAND.findall(group)]
        return (*_CALLED.findall(self.rest), *branches)

    @property
    def op_name(self) -> str:
        """Where in the program it comes from; empty where the compiler does not say."""
        found = _OP_NAME.search(self.rest)
        return found[1] if found else ""

    @property
    def result_bytes(self) -> int:
        """Bytes of its result, all of a tuple together, without padding."""
        return sum(_array_bytes(dtype, sizes) for dtype, sizes in _ARRAY.findall(_bare(self.type)))

    @property
    def hbm_bytes(self) -> int:
        """Bytes of its result that are not placed in a faster memory (`S(1)` in its layout)."""
        arrays = _PLACED_ARRAY.findall(self.type)
        return sum(_array_bytes(dtype, sizes) for dtype, sizes, layout in arrays if "S(" not in layout)

    @property
    def operand_types(self) -> tuple[str, ...]:
        """The types of a custom call's operands, such as `bf16[10,75776,128]`; without layouts."""
        constraint = _braced(self.rest, "operand_layout_constraints=")
        return tuple(f"{dtype}[{sizes}]" for dtype, sizes in _ARRAY.findall(_bare(constraint)))


@dataclass(frozen=True)
class Module:
    """A program: its computations by name, and the one that it begins with."""

    entry: str
    computations: dict[str, tuple[Instruction, ...]]

    def trips(self, loop: Instruction) -> int | None:
        """How often a `while` runs; None where its text does not say.

        A scan counts from 0 by 1 to a constant, which its condition compares with.
        """
        if known := _KNOWN_TRIPS.search(loop.rest):
            return int(known[1])
        condition = _CONDITION.search(loop.rest)
        instructions = {
            each.name: each for each in self.computations.get(condition[1] if condition else "", ())
        }
        for each in instructions.values():
            if each.opcode == "compare" and "direction=LT" in each.rest and len(each.operands) == 2:
                bound = instructions.get(each.operands[1])
                if bound is not None and bound.opcode == "constant" and bound.argument.isdigit():
                    return int(bound.argument)
        return None

    def within(self, instruction: Instruction) -> Iterator[Instruction]:
        """All that a fusion or an asynchronous call consists of, however deep."""
        for name in instruction.called:
            for inner in self.computations.get(name, ()):
                yield inner
                yield from self.within(inner)


def parse(text: str) -> Module:
    """Reads a module. Raises ValueError for a text that has no entry."""
    entry, name = None, None
    computations: dict[str, tuple[Instruction, ...]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if name is None:
            if opening := _COMPUTATION.fullmatch(line):
                name = opening[2]
                entry = name if opening[1] else entry
        elif line == "}":
            computations[name] = tuple(filter(None, map(_instruction, lines)))
            name, lines = None, []
        elif _INSTRUCTION.match(line):
            lines.append(line)
        elif lines:  # attributes may have line breaks in them
            lines[-1] += line
    if entry is None:
        raise ValueError("the text is no HLO module: it has no ENTRY computation")
    return Module(entry, computations)


def _instruction(line: str) -> Instruction | None:
    matched = _INSTRUCTION.match(line)
    if matched is None:
        return None
    name, text = matched.groups()
    type_ends = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    opcode = _OPCODE.match(text, type_ends)
    if opcode is None:
        return None
    ends = _closing(text, opcode.end() - 1)
    argument = text[opcode.end() : ends]
    operands = tuple(_OPERAND.findall(argument))
    return Instruction(name, opcode[1], text[:type_ends], operands, text[ends + 1 :], argument)


def _closing(text: str, opening: int, pair: str = "()") -> int:
    """Where the parenthesis at `opening`, or another `pair`, is closed."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {pair[0]: 1, pair[1]: -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)


def _braced(text: str, prefix: str) -> str:
    """What stands in the braces after `prefix`, which may have braces in it; empty where it is not there."""
    start = text.find(prefix + "{")
    if start < 0:
        return ""
    opening = start + len(prefix)
    return text[opening + 1 : _closing(text, opening, "{}")]


def _bare(types: str) -> str:
    """Types without layouts."""
    return re.sub(r"\{[^{}]*\}", "", types)


def _array_bytes(dtype: str, sizes: str) -> int:
    elements = prod(int(size) for size in sizes.split(",") if size)
    if dtype in _WIDTHS_BYTES:
        return elements * _WIDTHS_BYTES[dtype]
    bits = int(re.sub(r"^[a-z]+(\d+).*$", r"\1", dtype))
    return -(-elements * bits // 8)
