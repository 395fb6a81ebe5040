"""What is read from a TPU compiler's text, and what it comes to, on a text with all that it can say."""

from __future__ import annotations

import dataclasses

import pytest

from crystools_pipelines.planning.estimate import OTHER_CYCLES_SHARE, Estimate, estimate
from crystools_pipelines.planning.hlo import Module, parse
from crystools_tpu.telemetry.chips import CHIPS, ChipSpec

# With round numbers: a second are 1000 cycles, 100 bytes of a link, 10 FLOP or 10,000 bytes of HBM.
CHIP = dataclasses.replace(
    next(chip for chip in CHIPS if chip.name == "v6e"),
    peak_bf16_flops=10.0,
    hbm_bandwidth_bytes_per_second=10_000.0,
    clock_hz=1000.0,
    ici_link_bytes_per_second=100.0,
)
CYCLES = 'backend_config={{"window_config":{{"estimated_cycles":"{}","iteration_bounds":["4","2"]}}}}'

PROGRAM = (
    """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(bf16[8,8]{1,0})->bf16[8,8]{1,0}}

%fused_computation.1 (param_0.1: bf16[8,8]) -> bf16[8,8] {
  %param_0.1 = bf16[8,8]{1,0:T(8,128)(2,1)} parameter(0)
  %fusion.inner = bf16[8,8]{1,0} fusion(%param_0.1), kind=kLoop, calls=%fused_computation.2, ONE_MILLION
  ROOT %convolution.3 = bf16[8,8]{1,0} convolution(%param_0.1, %fusion.inner), dim_labels=bf_io->bf
}

%fused_computation.2 (param_0.2: bf16[8,8]) -> bf16[8,8] {
  ROOT %param_0.2 = bf16[8,8]{1,0:T(8,128)(2,1)} parameter(0)
}

%body (param.1: (s32[], bf16[8,8])) -> (s32[], bf16[8,8]) {
  %param.1 = (s32[]{:T(128)}, bf16[8,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %get-tuple-element.1 = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%param.1), index=1
  %fusion.1 = (f32[8]{0:T(1024)S(1)}, /*index=1*/bf16[8,8]{1,0}) fusion(%get-tuple-element.1), kind=kOutput, \
calls=%fused_computation.1, metadata={op_name="jit(step)/while/body/dot_general"}, CYCLES_500
  %copy.1 = bf16[8,8]{0,1} copy(%get-tuple-element.1), CYCLES_100
  %splash.1 = bf16[8,8]{1,0:T(8,128)(2,1)} custom-call(%copy.1, %copy.1), \
custom_call_target="tpu_custom_call", operand_layout_constraints={bf16[8,8]{1,0}, s32[8]{0}}, \
frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 2048}"
}}, metadata={op_name="jit(step)/while/body/shard_map/splash/pallas_call"}, \
backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"5","transcendentals":"9",\
"bytes_accessed":"1"}}}
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[8,8]{1,0}) tuple(%param.1, %splash.1)
}

%condition (param.2: (s32[], bf16[8,8])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(40)
  %param.2 = (s32[]{:T(128)}, bf16[8,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %get-tuple-element.2 = s32[]{:T(128)} get-tuple-element(%param.2), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%get-tuple-element.2, %constant.1), direction=LT
}

ENTRY %main (param.3: bf16[8,8]) -> bf16[8,8] {
  %param.3 = bf16[8,8]{1,0:T(8,128)(2,1)} parameter(0)
  %tuple.2 = (s32[]{:T(128)}, bf16[8,8]{1,0}) tuple(%param.3, %param.3)
  %while.1 = (s32[]{:T(128)}, bf16[8,8]{1,0}) while(%tuple.2), condition=%condition, body=%body
  %all-gather.1 = bf16[40,10]{1,0} all-gather(%param.3), replica_groups=mesh['axis_0'=4,'axis_1'=2], \
device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={1}
  %all-reduce.1 = (f32[50]{0}, bf16[100]{0}) all-reduce(%param.3, %param.3), replica_groups=[2,4]<=[8]
  %all-reduce.2 = f32[100]{0} all-reduce(%param.3), replica_groups={{0,1},{2,3},{4,5},{6,7}}
  %reduce-scatter.1 = bf16[100]{0} reduce-scatter(%param.3), replica_groups={}
  %all-to-all.1 = bf16[200]{0} all-to-all(%param.3), replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] \
{'axis_1','axis_2'}, dimensions={2}
  %collective-permute-start.1 = (bf16[200]{0}, bf16[200]{0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%param.3), source_target_pairs={{2,0},{3,1}}
  %copy.2 = bf16[8,8]{0,1} copy(%param.3), CYCLES_1500
  ROOT %collective-permute-done.1 = bf16[200]{0} collective-permute-done(%collective-permute-start.1)
}
""".replace("ONE_MILLION", CYCLES.format(1_000_000))
    .replace("CYCLES_1500", CYCLES.format(1500))
    .replace("CYCLES_500", CYCLES.format(500))
    .replace("CYCLES_100", CYCLES.format(100))
)
KERNEL = ("splash", ("bf16[8,8]", "s32[8]"))


@pytest.fixture(scope="module")
def module() -> Module:
    return parse(PROGRAM)


def estimated(text: str, chip: ChipSpec = CHIP) -> Estimate:
    return estimate(parse(text), chip, 8, {KERNEL: 600})


def test_an_instruction_is_read_over_line_breaks_tuples_and_layouts(module: Module) -> None:
    fusion, copy, kernel = module.computations["body"][2:5]
    assert (fusion.name, fusion.opcode, fusion.called, fusion.cycles) == (
        "fusion.1",
        "fusion",
        ("fused_computation.1",),
        500,
    )
    assert fusion.result_bytes == 8 * 4 + 8 * 8 * 2
    assert (copy.operands, copy.cycles) == (("get-tuple-element.1",), 100)
    assert kernel.operand_types == KERNEL[1]
    assert kernel.op_name.endswith("/splash/pallas_call")
    assert (kernel.cycles, module.entry) == (None, "main")


def test_a_loop_runs_as_often_as_its_condition_or_the_compiler_says(module: Module) -> None:
    loop = next(each for each in module.computations["main"] if each.opcode == "while")
    assert module.trips(loop) == 40
    known = dataclasses.replace(loop, rest=loop.rest + ', backend_config={"known_trip_count":{"n":"7"}}')
    assert module.trips(known) == 7


def test_matrix_products_take_their_cycles_and_the_rest_a_share_of_them_times_the_trips_of_their_loop() -> (
    None
):
    seconds = estimated(PROGRAM).seconds
    assert seconds["matrix products and convolutions"] == pytest.approx(40 * 0.5)
    assert seconds["copies and layout"] == pytest.approx(OTHER_CYCLES_SHARE * (40 * 0.1 + 1.5))


def test_without_the_calibration_all_take_their_cycles(module: Module) -> None:
    seconds = estimate(module, CHIP, 8, {}, other_cycles_share=1.0).seconds
    assert seconds["matrix products and convolutions"] == pytest.approx(40 * 0.5)
    assert seconds["copies and layout"] == pytest.approx(40 * 0.1 + 1.5)


@pytest.mark.parametrize(
    ("opcode", "entry_bytes"),
    [("copy", 128 + 128), ("slice", 128), ("dynamic-update-slice", 0)],
    ids=["reads and writes all", "reads a part", "reads and writes a part"],
)
def test_what_is_no_matrix_product_takes_no_less_than_moving_what_is_in_hbm(
    opcode: str, entry_bytes: int
) -> None:
    slow = dataclasses.replace(CHIP, hbm_bandwidth_bytes_per_second=10.0)
    text = PROGRAM.replace("%copy.2 = bf16[8,8]{0,1} copy(", f"%copy.2 = bf16[8,8]{{0,1}} {opcode}(")
    # In the loop the operand is in a faster memory.
    loop_seconds, entry_seconds = 40 * 128 / 10, max(entry_bytes / 10, OTHER_CYCLES_SHARE * 1.5)
    seconds = estimated(text, slow).seconds
    moved = seconds["copies and layout"] + seconds["element-wise, norms and reductions"]
    assert moved == pytest.approx(loop_seconds + entry_seconds)


def test_a_kernel_takes_the_cycles_of_its_schedule_and_no_less_than_its_bytes_take() -> None:
    assert estimated(PROGRAM).seconds["kernel splash"] == pytest.approx(40 * 600 / 1000)
    slow = dataclasses.replace(CHIP, hbm_bandwidth_bytes_per_second=0.5)
    assert estimated(PROGRAM, slow).seconds["kernel splash"] == pytest.approx(40 * 2)


def test_a_kernel_is_known_by_its_name_without_what_transformed_it() -> None:
    mapped = PROGRAM.replace("/splash/pallas_call", "/vmap(splash)/pallas_call")
    assert estimated(mapped).seconds["kernel splash"] == pytest.approx(40 * 600 / 1000)


def test_a_kernel_without_a_schedule_takes_its_own_estimate_at_peak_and_it_is_said(module: Module) -> None:
    found = estimate(module, CHIP, 8, {})
    assert found.seconds["kernel splash (its cost estimate at peak)"] == pytest.approx(40 * 5 / 10)
    assert found.notes == {"kernel splash: no schedule; by its own cost estimate at the chip's peak"}


def test_collectives_take_what_a_chip_sends_over_its_links() -> None:
    found = estimated(PROGRAM)
    assert found.collective_bytes == {
        "all-gather": 800 * 3 // 4,
        "all-reduce": 400 * 6 // 4 + 400 * 2 // 2,
        "reduce-scatter": 200 * 7,
        "all-to-all": 400 * 3 // 4,
        "collective-permute": 400,
    }
    # A ring sends both ways, two chips have one link; on a ring of four an all-to-all's blocks go a link far.
    assert found.seconds["all-gather"] == pytest.approx(600 / 200)
    assert found.seconds["all-reduce"] == pytest.approx(600 / 200 + 400 / 100)
    assert found.seconds["reduce-scatter"] == pytest.approx(1400 / 200)
    assert found.seconds["all-to-all"] == pytest.approx(400 / 200)


def test_a_collective_that_runs_beside_other_work_costs_what_is_left_of_it() -> None:
    assert estimated(PROGRAM).seconds["collective-permute"] == pytest.approx(4 - OTHER_CYCLES_SHARE * 1.5)


def test_a_loop_that_does_not_say_how_often_it_runs_is_counted_once_and_it_is_said() -> None:
    found = estimated(PROGRAM.replace("constant(40)", "parameter(1)"))
    assert found.seconds["matrix products and convolutions"] == pytest.approx(0.5)
    assert found.notes == {"while.1: how often it runs is not known; counted once"}


def test_a_loop_that_is_unlikely_to_run_is_not_counted_and_it_is_said() -> None:
    unlikely = 'body=%body, metadata={op_name="jit(step)/unlikely/while"}'
    found = estimated(PROGRAM.replace("body=%body", unlikely))
    assert "matrix products and convolutions" not in found.seconds
    assert found.notes == {"what is unlikely to run is not counted"}


@pytest.mark.parametrize(
    "sides",
    ["branch_computations={%all, %little}", "true_computation=%all, false_computation=%little"],
)
def test_of_a_condition_the_longest_side_runs_or_where_all_is_skipped_the_shortest(sides: str) -> None:
    program = f"""\
HloModule jit_step

%all (param.1: f32[8]) -> f32[8] {{
  %param.1 = f32[8]{{0}} parameter(0)
  ROOT %convolution.1 = f32[8]{{0}} convolution(%param.1), {CYCLES.format(3000)}
}}

%little (param.2: f32[8]) -> f32[8] {{
  %param.2 = f32[8]{{0}} parameter(0)
  ROOT %convolution.2 = f32[8]{{0}} convolution(%param.2), {CYCLES.format(10)}
}}

ENTRY %main (param.3: pred[], param.4: f32[8]) -> f32[8] {{
  %param.3 = pred[]{{:T(512)}} parameter(0)
  %param.4 = f32[8]{{0}} parameter(1)
  ROOT %conditional = f32[8]{{0}} conditional(%param.3, %param.4, %param.4), {sides}
}}
"""
    seconds = [
        estimate(parse(program), CHIP, 8, {}, skipped=skipped).total_seconds for skipped in (False, True)
    ]
    assert seconds == pytest.approx([3.0, 0.01])


def test_a_fusion_of_an_all_reduce_without_cycles_is_a_reduce_scatter() -> None:
    """Of 100 bytes a device in groups of four: each sends three times its own."""
    program = """\
HloModule jit_step

%fused (param.1: bf16[200]) -> bf16[50] {
  %param.1 = bf16[200]{0} parameter(0)
  %all-reduce.1 = bf16[200]{0} all-reduce(%param.1), replica_groups=[2,4]<=[8]
  ROOT %dynamic-slice.1 = bf16[50]{0} dynamic-slice(%all-reduce.1)
}

ENTRY %main (param.2: bf16[200]) -> bf16[50] {
  %param.2 = bf16[200]{0} parameter(0)
  ROOT %fusion.1 = bf16[50]{0} fusion(%param.2), kind=kCustom, calls=%fused
}
"""
    found = estimated(program)
    assert found.collective_bytes == {"reduce-scatter": 300}
    assert found.seconds == {"reduce-scatter": pytest.approx(300 / 200)}


def test_a_custom_call_of_unknown_cost_is_said() -> None:
    unknown = 'custom-call(%param.3), custom_call_target="Sort"'
    found = estimated(PROGRAM.replace("copy(%param.3), ", f"{unknown}, ").replace('"1500"', '"-1"'))
    assert found.notes == {"custom call Sort: the compiler gives no cycles; not counted"}


def test_what_is_no_hlo_is_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse("HloModule jit_step\n")
