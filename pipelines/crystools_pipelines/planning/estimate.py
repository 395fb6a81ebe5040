"""How long a program takes by the compiler's own schedule: an estimate, never a measurement.

- Each operation takes the cycles that the compiler estimates for it, at the chip's clock; a loop so many
  times what is in it. Of what is no matrix product only a share of these cycles (`OTHER_CYCLES_SHARE`), and
  never less than reading its operands from HBM and writing its results there takes.
- A Pallas kernel takes the bundles of its body's final schedule times the steps of its grid, one bundle a
  cycle; or, where they are not known, its own cost estimate at the chip's peak. Never less than moving its
  operands takes.
- Of a condition the side that takes longest runs, or where a step that is skipped is asked for, the other.
- A collective takes its bytes over the links. A group of more than two chips is taken as a ring that sends
  both ways, with one link each way; two chips have one link. One that runs beside other operations costs
  what is left of it when it is waited for. Latencies are left out.
- Copies that the compiler starts early to run beside the rest (`copy-start`, `slice-start`) are left out.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

from crystools_pipelines.kernels.scopes import UNLIKELY
from crystools_pipelines.planning.hlo import Instruction, Module
from crystools_tpu.telemetry.chips import ChipSpec

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
_MATRIX_OPCODES = {"convolution", "dot"}
_LAYOUT_OPCODES = {"bitcast-convert", "concatenate", "copy", "pad", "reshape", "slice", "transpose"}
_PART_READERS = {"dynamic-slice", "dynamic-update-slice", "gather", "slice"}
_PART_WRITERS = {"dynamic-update-slice", "scatter"}
_KERNEL_TARGET = 'custom_call_target="tpu_custom_call"'
_CUSTOM_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_FREE_CUSTOM_CALLS = {"AllocateBuffer", "ConcatBitcast"}  # names for memory

_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\].*?\{((?:'[^']*',?)+)\}")
_MESH_AXIS = re.compile(r"'([^']*)'=(\d+)")

OTHER_CYCLES_SHARE = 0.45
"""The calibration, one constant for all models and chips: of what is no matrix product, kernel or collective,
the share of the compiler's estimated cycles that is counted.

Fitted to the two steps on v6e-8 that the authors of other node packs have published, Wan2.1's 4.54 s and
CogVideoX's 2.08 s, with these packs' own designs compiled (`benchmarks/peer_designs.py`): the value for which
the larger of the two errors is least. Why it is below 1: the compiler (libtpu 0.0.42) puts the sum of two
large float32 arrays at 44% of v6e's HBM bandwidth, 45% of v5p's, 57% of v5e's, and nothing else limits that.
Matrix products need none: it puts those of Wan2.1's layers at 63% of peak, 66% were measured.
"""

KernelCycles: TypeAlias = Mapping[tuple[str, tuple[str, ...]], int]
"""By the kernel's name and its operands' types."""


@dataclass
class Estimate:
    """Seconds by what they are spent on, and what each chip sends, by the kind of collective.

    `notes` says what makes it less than it could be.
    """

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    collective_bytes: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    notes: set[str] = field(default_factory=set)

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def add(self, other: "Estimate", times: int = 1) -> None:
        """Counts the other in, so many times."""
        for name, seconds in other.seconds.items():
            self.seconds[name] += seconds * times
        for kind, sent in other.collective_bytes.items():
            self.collective_bytes[kind] += sent * times
        self.notes |= other.notes


def estimate(
    module: Module,
    chip: ChipSpec,
    devices: int,
    kernel_cycles: KernelCycles,
    other_cycles_share: float = OTHER_CYCLES_SHARE,
    *,
    skipped: bool = False,
) -> Estimate:
    """One run of the program on `devices`. Raises ValueError for a chip without a clock in the table.

    `other_cycles_share` is 1 for an estimate without calibration. `skipped` is for a run in which all that
    the device may leave out is left out.
    """
    if chip.clock_hz is None or chip.ici_link_bytes_per_second is None:
        raise ValueError(f"{chip.name} has no clock and no links in the table of chips")
    speeds = chip.clock_hz, chip.ici_link_bytes_per_second
    reader = _Reader(module, chip, devices, kernel_cycles, other_cycles_share, skipped, *speeds)
    return reader.run(module.entry)


def has_kernels(module: Module) -> bool:
    """Whether the module has Pallas kernels."""
    return any(_is_kernel(each) for every in module.computations.values() for each in every)


def _is_kernel(each: Instruction) -> bool:
    return each.opcode == "custom-call" and _KERNEL_TARGET in each.rest


@dataclass
class _Reader:
    module: Module
    chip: ChipSpec
    devices: int
    kernel_cycles: KernelCycles
    other_cycles_share: float
    skipped: bool
    clock_hz: float
    link_bytes_per_second: float

    def run(self, computation: str) -> Estimate:
        """The estimate of a computation, in the order of its instructions."""
        total = Estimate()
        ready: dict[str, tuple[float, str]] = {}  # when a collective that was started will be done
        instructions = self.module.computations.get(computation, ())
        by_name = {each.name: each for each in instructions}
        done_bytes = {each.operands[0]: each.result_bytes for each in instructions if _is_done(each)}
        for each in instructions:
            kind = self._collective_kind(each)
            if kind is not None and each.opcode.endswith("-start"):
                result_bytes = done_bytes.get(each.name, each.result_bytes)
                ready[each.name] = total.total_seconds + self._send(total, kind, result_bytes, each), kind
            elif _is_done(each) and each.operands[0] in ready:
                at, kind = ready.pop(each.operands[0])
                total.seconds[kind] += max(0.0, at - total.total_seconds)
            elif kind is not None and each.opcode == kind:
                total.seconds[kind] += self._send(total, kind, each.result_bytes, each)
            else:
                total.add(self._other(each, by_name))
        return total

    def _other(self, each: Instruction, by_name: Mapping[str, Instruction]) -> Estimate:
        if each.opcode == "while" and UNLIKELY in each.op_name.split("/"):
            return Estimate(notes={"what is unlikely to run is not counted"})
        if each.opcode == "while":
            return self._loop(each)
        if each.opcode == "conditional":
            branch = min if self.skipped else max
            return branch(map(self.run, each.called), key=lambda side: side.total_seconds)
        if each.opcode == "call":
            total = Estimate()
            for name in each.called:
                total.add(self.run(name))
            return total
        if _is_kernel(each):
            return self._kernel(each)
        if each.cycles:
            return self._operation(each, each.cycles / self.clock_hz, by_name)
        if each.opcode == "fusion":
            return self._reduce_scatter(each)
        return _not_counted(each)

    def _reduce_scatter(self, each: Instruction) -> Estimate:
        """XLA writes one as a fusion, without cycles, of an all-reduce and what each device keeps of it."""
        total, kind = Estimate(), "reduce-scatter"
        for inner in self.module.within(each):
            if inner.opcode == "all-reduce":
                total.seconds[kind] += self._send(total, kind, each.result_bytes, inner)
        return total

    def _loop(self, each: Instruction) -> Estimate:
        total, trips = Estimate(), self.module.trips(each)
        for name in each.called:
            total.add(self.run(name), 1 if trips is None else trips)
        if trips is None:
            total.notes.add(f"{each.name}: how often it runs is not known; counted once")
        return total

    def _operation(self, each: Instruction, seconds: float, by_name: Mapping[str, Instruction]) -> Estimate:
        """A fusion with collectives in it takes no less than they do."""
        total, within = Estimate(), tuple(self.module.within(each))
        opcodes = {each.opcode, *(inner.opcode for inner in within)}
        moving = 0.0
        if not opcodes & _MATRIX_OPCODES:
            seconds *= self.other_cycles_share
            bandwidth = self._share(self.chip.hbm_bandwidth_bytes_per_second)
            moving = _least_moved_bytes(each, opcodes, by_name) / bandwidth
        sending = 0.0
        for inner in within if each.opcode == "fusion" else ():
            if inner.opcode in COLLECTIVES:
                sending += self._send(total, inner.opcode, inner.result_bytes, inner)
        total.seconds[_category(each, opcodes)] = max(seconds, moving, sending)
        return total

    def _kernel(self, each: Instruction) -> Estimate:
        cost = {
            name: int(found[1]) if (found := re.search(rf'"{name}":"(\d+)"', each.rest)) else 0
            for name in ("flops", "bytes_accessed")
        }
        moving = cost["bytes_accessed"] / self._share(self.chip.hbm_bandwidth_bytes_per_second)
        name, total = _kernel_name(each), Estimate()
        cycles = self.kernel_cycles.get((name, each.operand_types))
        if cycles is not None:
            total.seconds[f"kernel {name}"] = max(cycles / self.clock_hz, moving)
        elif cost["flops"]:
            at_peak = cost["flops"] / self._share(self.chip.peak_bf16_flops)
            total.seconds[f"kernel {name} (its cost estimate at peak)"] = max(at_peak, moving)
            total.notes.add(f"kernel {name}: no schedule; by its own cost estimate at the chip's peak")
        else:
            total.notes.add(f"kernel {name}: neither schedule nor cost estimate; not counted")
        return total

    def _share(self, of_chip: float) -> float:
        return of_chip / self.chip.devices_per_chip

    def _collective_kind(self, each: Instruction) -> str | None:
        name = each.opcode.removesuffix("-start")
        if name in COLLECTIVES:
            return name
        if each.opcode == "async-start":
            return next((i.opcode for i in self.module.within(each) if i.opcode in COLLECTIVES), None)
        return None

    def _group(self, each: Instruction) -> int:
        """How many devices take part, all of them where the text does not say."""
        if each.opcode.removesuffix("-start") not in COLLECTIVES:
            inner = [i for i in self.module.within(each) if i.opcode in COLLECTIVES]
            return self._group(inner[0]) if inner else self.devices
        if listed := _LISTED_GROUPS.search(each.rest):
            return len(listed[1].split(",")) if listed[1] else self.devices
        if iota := _IOTA_GROUPS.search(each.rest):
            return int(iota[2])
        if on_mesh := _MESH_GROUPS.search(each.rest):
            sizes = dict(_MESH_AXIS.findall(on_mesh[1]))
            return prod(int(sizes[axis.strip("'")]) for axis in on_mesh[2].split(",") if axis)
        return self.devices

    def _send(self, total: Estimate, kind: str, result_bytes: int, each: Instruction) -> float:
        """Seconds of a collective with such a result; what each chip sends for it is counted in."""
        group = self._group(each)
        sent = _sent_bytes(kind, result_bytes, group)
        total.collective_bytes[kind] += sent
        if kind == "all-to-all" and group > 2:
            # On a ring a block travels a quarter of the way on average: n/4 links, of n-1 blocks of n.
            sent = sent * group * group // (4 * (group - 1))
        both_ways = 1 if group <= 2 or kind == "collective-permute" else 2
        return sent / (both_ways * self.link_bytes_per_second)


def _category(each: Instruction, opcodes: Set[str]) -> str:
    if opcodes & _MATRIX_OPCODES:
        return "matrix products and convolutions"
    if each.opcode in _LAYOUT_OPCODES:
        return "copies and layout"
    return "element-wise, norms and reductions"


def _least_moved_bytes(each: Instruction, opcodes: Set[str], by_name: Mapping[str, Instruction]) -> int:
    """Bytes that it reads from HBM and writes there, without what it may use no more than a part of."""
    read = sum(by_name[name].hbm_bytes for name in each.operands if name in by_name)
    written = each.hbm_bytes
    return (0 if opcodes & _PART_READERS else read) + (0 if opcodes & _PART_WRITERS else written)


def _sent_bytes(kind: str, result_bytes: int, group: int) -> int:
    """Bytes that each of `group` devices sends so that each has such a result."""
    share = {
        "all-gather": (group - 1, group),
        "all-reduce": (2 * (group - 1), group),
        "all-to-all": (group - 1, group),
        "reduce-scatter": (group - 1, 1),
        "collective-permute": (1, 1),
    }[kind]
    return result_bytes * share[0] // share[1]


def _is_done(each: Instruction) -> bool:
    return each.opcode.endswith("-done") and bool(each.operands)


def _kernel_name(each: Instruction) -> str:
    """`splash`, of an op name that ends in `splash/pallas_call` or `vmap(splash)/pallas_call`; else the
    instruction's own."""
    parts = each.op_name.split("/")
    if len(parts) < 2 or parts[-1] != "pallas_call":
        return each.name.split(".")[0]
    return parts[-2].rpartition("(")[2].rstrip(")")


def _not_counted(each: Instruction) -> Estimate:
    target = _CUSTOM_TARGET.search(each.rest)
    name = target[1] if target else each.name
    if each.opcode != "custom-call" or name in _FREE_CUSTOM_CALLS:
        return Estimate()
    return Estimate(notes={f"custom call {name}: the compiler gives no cycles; not counted"})
