"""What is expected of a workflow before it begins: by history, plan, another run's rate, or nothing."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer

from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.cache import keep_plan, plan_key
from crystools_pipelines.planning.plan import Plan, RunSpec
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_tpu.comfyui import attach
from crystools_tpu.comfyui.expected import Expecting
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS
from crystools_tpu.comfyui.prompt_graph import PromptGraph
from crystools_tpu.monitor import Snapshot
from crystools_tpu.server.settings import FieldError
from crystools_tpu.server.wire import Expected
from crystools_tpu.sources.base import AttachedChips, ChipReading
from crystools_tpu.telemetry import History, RunReport, Shape, StageName, Status
from tests.planning.plans import made_up_plan, made_up_stage
from tests.telemetry.test_time_to_go import CPU, TPU, Lasts, node, run

from .conftest import StandIn
from .fake_execution import DynamicPrompt, FakeExecution

V6E_8 = dataclasses.replace(TPU, count=8, chips=8.0)
PLANNED = [
    made_up_stage("text_encode", steps=1),
    made_up_stage("denoise", "transformer"),
    made_up_stage("vae_decode", steps=3),
]


class Saver:
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {})}}

    def save(self, **inputs: Any) -> None: ...


class Mixer:
    """Another's node, which decides how many steps there are."""

    FUNCTION = "mix"
    INPUT_TYPES: ClassVar[Any] = staticmethod(dict)

    def mix(self) -> None: ...


CLASSES = {**NODE_CLASS_MAPPINGS, "Saver": Saver, "Mixer": Mixer}


def workflow(model_id: str, prompt: str = "a cat", **settings: Any) -> dict[str, Any]:
    """Text to video by Wan2.1, as the page has it before it is queued."""
    shape = {"height": 720, "width": 1280, "num_frames": 81}
    schedule = {"num_inference_steps": 50, "guidance_scale": 5, "flow_shift": 5, "seed": 1, "num_devices": 0}
    return {
        "1": {
            "class_type": "Wan21TextEncoder",
            "inputs": {"prompt": prompt, "negative_prompt": "", "model_id": model_id},
        },
        "2": {
            "class_type": "Wan21TPUSampler",
            "inputs": {
                "prompt_embeds": ["1", 0],
                "negative_prompt_embeds": ["1", 1],
                "model_id": model_id,
                **shape,
                **schedule,
                **settings,
            },
        },
        "3": {
            "class_type": "Wan21TPUVAEDecoder",
            "inputs": {"latents": ["2", 0], "model_id": model_id, "fps": 16},
        },
        "4": {"class_type": "Saver", "inputs": {"images": ["3", 0], "filename_prefix": "cat"}},
    }


def executed(seconds: float, *, cached: Sequence[str] = (), **facts: Any) -> RunReport:
    """A run of that workflow: what denoises took `seconds`, the other nodes 30 s together."""
    nodes = (
        node("1", 0.0, Lasts("text_encode", steps=(8.0,))),
        node("2", 0.0, Lasts("denoise", "transformer", steps=(seconds / 10,) * 10)),
        node("3", 0.0, Lasts("vae_decode", steps=(4.0,) * 5)),
        node("4", 2.0),
    )
    report = run([each for each in nodes if each.node not in cached], pipeline="comfyui", **facts)
    known = tuple(dataclasses.replace(CACHED, id=each) for each in cached)
    return dataclasses.replace(report, cached_nodes=known, nodes_total=4)


CACHED = cast(Any, run([node("1", 1.0)]).stages[0].node)


@dataclass
class Desk:
    """A ComfyUI with our nodes, its runs, and a folder of plans."""

    folder: Path
    history: History = field(default_factory=History)
    snapshot: Snapshot | None = None
    kept: list[RunReport] = field(default_factory=list)
    questions: int = 0
    modules: dict[str, ModuleType] = field(default_factory=lambda: FakeExecution(CLASSES).modules())

    def __post_init__(self) -> None:
        self.checkpoint = str(MODELS["wan2.1-t2v"].write_published(self.folder / "wan"))
        self.asking = Expecting(
            self.modules,
            cast(Any, SimpleNamespace(latest=None)),
            self.history,
            cast(Any, self),
            plans=self.folder / "plans",
        )

    def alike(self, report: RunReport) -> Sequence[RunReport]:
        """Of what other processes have kept."""
        self.questions += 1
        like = [each for each in self.kept if each.pipeline == report.pipeline]
        asked = report.params.get("workflow")
        return [each for each in like if asked in (None, each.params.get("workflow"))]

    def monitor_saw(
        self, *chips: ChipReading, simulated: bool = False, attached: AttachedChips | None = None
    ) -> None:
        seen = Snapshot(
            time_unix_seconds=1.0, simulated=simulated, chips=chips, host=None, sources=(), attached=attached
        )
        self.asking._monitor = cast(Any, SimpleNamespace(latest=seen))

    def ran(self, *reports: RunReport) -> None:
        """The newest last."""
        known = len(self.history.reports())
        for number, report in enumerate(reports, known):
            told = dataclasses.replace(report, run_id=f"run {number}", started_unix_seconds=1000.0 + number)
            self.history.add(cast(Any, SimpleNamespace(report=told, run_id=told.run_id, join=lambda: None)))

    def plan(self, plan: Plan, request: Wan21Request) -> None:
        """Keeps it as the command does, for the mesh of a usual run on a v6e-8."""
        spec = RunSpec("v6e-8", "wan2.1-t2v", request, Path(self.checkpoint))
        best = dataclasses.replace(plan, mesh=MeshShape(2, 4, 1))
        keep_plan(self.folder / "plans", plan_key(spec, None), best)

    def ask(self, **settings: Any) -> Expected:
        return self.asking(workflow(self.checkpoint, **settings))

    def fingerprint(self, **settings: Any) -> str:
        """The one that the run has, whose values ComfyUI has converted."""
        floats = {"guidance_scale": 5.0, "flow_shift": 5.0}
        prompt = workflow(self.checkpoint, **{**floats, **settings})
        return PromptGraph(DynamicPrompt(prompt), CLASSES, {}).fingerprint(prompt)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


V6E = [ChipReading(f"tpu{number}", "v6e") for number in range(8)]


def test_of_a_workflow_that_was_never_run_nothing_is_known(desk: Desk) -> None:
    answer = desk.ask()
    assert (answer.seconds, answer.by, answer.chips, answer.alike_seconds) == (None, None, None, ())
    (sampler,) = answer.nodes
    assert (sampler.node.id, sampler.node.class_type) == ("2", "Wan21TPUSampler")
    assert (sampler.seconds, sampler.fits, sampler.would_fit) == (None, None, ())


def test_it_is_expected_to_take_what_its_last_five_runs_took(desk: Desk) -> None:
    params = {"workflow": desk.fingerprint()}
    takes = (900.0, 190.0, 185.0, 195.0, 192.0, 188.0)
    desk.ran(*(executed(seconds, params=params, device=V6E_8) for seconds in takes))
    answer = desk.ask(prompt="another prompt", seed=7)
    assert (answer.seconds, answer.by, answer.chips) == (220.0, "history", 8.0)
    assert answer.alike_seconds == pytest.approx((218.0, 222.0, 225.0, 215.0, 220.0))
    assert answer.cached_nodes == 0
    assert (answer.nodes[0].seconds, answer.nodes[0].fits) == (190.0, True)
    assert answer.workflow == params["workflow"]


def test_runs_with_cached_nodes_are_taken_for_what_they_are(desk: Desk) -> None:
    params = {"workflow": desk.fingerprint()}
    desk.ran(
        executed(190.0, params=params, cached=("1",)),
        executed(192.0, params=params, cached=("1", "2")),
        executed(1.0, params=params, cached=("1", "2", "3", "4")),
    )
    answer = desk.ask()
    assert (answer.seconds, answer.cached_nodes) == (212.0, 1)
    desk.ran(executed(190.0, params=params, cached=("1",)), executed(200.0, params=params))
    answer = desk.ask()
    assert (answer.seconds, answer.cached_nodes) == (230.0, 0)


def test_other_steps_and_other_chips_are_another_workflow(desk: Desk) -> None:
    desk.ran(executed(190.0, params={"workflow": desk.fingerprint()}, device=V6E_8))
    assert desk.ask(num_inference_steps=25).by is None
    desk.monitor_saw(*V6E[:4])
    assert desk.ask().by is None
    desk.monitor_saw(*V6E)
    assert desk.ask().by == "history"
    desk.monitor_saw(attached=AttachedChips("v6e", 8, ()))  # idle
    assert desk.ask().by == "history"


def test_the_runs_of_other_processes_count_and_are_asked_for_once(desk: Desk) -> None:
    desk.kept.append(executed(190.0, params={"workflow": desk.fingerprint()}))
    for seed in range(5):
        assert desk.ask(seed=seed).seconds == 220.0
    assert desk.questions == 1


def test_a_plan_says_what_the_models_take_and_that_they_fit(desk: Desk) -> None:
    desk.plan(made_up_plan(*PLANNED), Wan21Request("any"))
    assert desk.ask().by is None  # for nobody knows the chips
    desk.monitor_saw(*V6E, simulated=True)
    assert desk.ask().by is None
    desk.monitor_saw(*V6E)
    answer = desk.ask(num_inference_steps=20)
    assert (answer.by, answer.chips) == ("plan", 8.0)
    assert answer.seconds == pytest.approx(4.5 * (1 + 20 + 3))
    assert answer.nodes[0].seconds == pytest.approx(4.5 * 20)
    assert answer.nodes[0].fits is True
    assert desk.ask(height=480).by is None


def test_a_whole_pipeline_is_expected_to_take_all_that_its_model_computes(desk: Desk) -> None:
    desk.plan(made_up_plan(*PLANNED), Wan21Request("any"))
    desk.monitor_saw(*V6E)
    asked = {
        name: value
        for name, value in workflow(desk.checkpoint)["2"]["inputs"].items()
        if "embeds" not in name
    }
    whole = {
        "class_type": "Wan21TPUPipeline",
        "inputs": {**asked, "prompt": "a cat", "num_inference_steps": 20},
    }
    saver = {"class_type": "Saver", "inputs": {"images": ["1", 0], "filename_prefix": "cat"}}
    answer = desk.asking({"1": whole, "2": saver})
    assert answer.by == "plan"
    assert answer.seconds == answer.nodes[0].seconds == pytest.approx(4.5 * (1 + 20 + 3))
    assert answer.nodes[0].shape_nodes == ("1",)


def test_the_loras_of_a_chain_are_said_and_another_one_is_the_same_workflow(desk: Desk) -> None:
    def ask(strength: float) -> Expected:
        def lora(name: str, **chained: Any) -> dict[str, Any]:
            about = {"lora_name": name, "strength": strength, "expert": "both", **chained}
            return {"class_type": "TPULora", "inputs": about}

        chain = {"7": lora("style/ink.safetensors", lora=["6", 0]), "6": lora("detail.safetensors")}
        return desk.asking({**workflow(desk.checkpoint, lora=["7", 0]), **chain})

    (sampler,) = ask(0.5).nodes
    assert sampler.loras == ("detail.safetensors=0.5", "style/ink.safetensors=0.5")
    assert ask(0.5).workflow == ask(1).workflow != desk.ask().workflow
    assert desk.ask().nodes[0].loras == ()


def test_few_steps_are_those_of_the_sigmas(desk: Desk) -> None:
    desk.plan(made_up_plan(*PLANNED), Wan21Request("any"))
    desk.monitor_saw(*V6E)
    later = {"scheduler": "euler", "sigmas": "1, 0.75, 0.5, 0.25", "timesteps": "", "step_cache": ""}
    assert desk.ask(**later).nodes[0].seconds == pytest.approx(4.5 * 4)


def test_what_does_not_fit_has_the_shapes_that_do_and_whose_widgets_say_them(desk: Desk) -> None:
    too_large = made_up_stage("denoise", "transformer", fits=False, peak_gib=40)
    shapes = (Shape(720, 1280, 49), Shape(544, 960, 81))
    desk.plan(made_up_plan(PLANNED[0], too_large, PLANNED[2], shapes=shapes), Wan21Request("any"))
    desk.monitor_saw(*V6E)
    answer = desk.ask()
    (sampler,) = answer.nodes
    assert (answer.seconds, answer.by, sampler.seconds, sampler.fits) == (None, None, None, False)
    assert sampler.would_fit == shapes
    assert sampler.shape_nodes == ("2",)
    assert sampler.reason == (
        "the TPU compiler's own estimate: denoise transformer wants 40.00 GiB of a chip's 31.00 GiB"
    )


def test_a_size_that_several_nodes_are_given_is_that_of_all(desk: Desk) -> None:
    folder = str(MODELS["flux.2"].write_published(desk.folder / "flux"))
    size = {"height": 1024, "width": 1024}
    asked = {"num_inference_steps": 4, "guidance_scale": 4, "seed": 1, "model_id": folder, "num_devices": 0}
    prompt = {
        "1": {"class_type": "FluxTPUTextEncoder", "inputs": {"prompt": "a cat", "model_id": folder}},
        "2": {"class_type": "FluxTPUSampler", "inputs": {"prompt_embeds": ["1", 0], **size, **asked}},
        "3": {
            "class_type": "Flux2TPUVAEDecoder",
            "inputs": {"latents": ["2", 0], **size, "model_id": folder},
        },
        "4": {"class_type": "Saver", "inputs": {"images": ["3", 0], "filename_prefix": "cat"}},
    }
    assert set(desk.asking(prompt).nodes[0].shape_nodes) == {"2", "3"}


def test_a_video_that_begins_with_an_image_has_its_size_from_the_images_node(desk: Desk) -> None:
    folder = str(MODELS["wan2.2-i2v"].write_published(desk.folder / "i2v"))
    size = {"height": 480, "width": 832, "num_frames": 81}
    embeds = {"prompt_embeds": ["1", 0], "negative_prompt_embeds": ["1", 1]}
    info = {"condition": ["0", 0], "latent_info": ["0", 1]}
    asked = {"num_inference_steps": 40, "guidance_scale": 3.5, "shift": 5, "seed": 1, "model_id": folder}
    prompt = {
        "0": {
            "class_type": "Wan22I2VImageEncoder",
            "inputs": {"image": ["9", 0], **size, "model_id": folder},
        },
        "1": {"class_type": "Wan22I2VTextEncoder", "inputs": {"prompt": "", "negative_prompt": ""}},
        "2": {"class_type": "Wan22I2VTPUSampler", "inputs": {**embeds, **info, **asked}},
        "4": {"class_type": "Saver", "inputs": {"images": ["2", 0], "filename_prefix": "cat"}},
        "9": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
    }
    assert desk.asking(prompt).nodes[0].shape_nodes == ("0",)


def test_after_a_run_that_ran_out_of_memory_the_largest_shape_that_ran_is_offered(desk: Desk) -> None:
    desk.monitor_saw(*V6E)

    def ran_in(frames: int) -> RunReport:
        size = {"height": 720, "width": 1280, "num_frames": frames}
        denoised = (node("2", 0.0, Lasts("denoise", "transformer", steps=(0.9,) * 10)),)
        report = run(denoised, pipeline="comfyui", params=size, device=V6E_8)
        stages = [dataclasses.replace(each, pipeline="wan2.1-t2v") for each in report.stages]
        return dataclasses.replace(report, stages=tuple(stages))

    failed = dataclasses.replace(
        executed(5.0, params={"workflow": desk.fingerprint()}, device=V6E_8),
        status=Status.FAILED,
        error="OutOfMemoryError: denoise: out of device memory: 40 GiB are wanted",
    )
    desk.ran(ran_in(17), ran_in(49), ran_in(121), failed)
    (sampler,) = desk.ask().nodes
    assert (sampler.fits, sampler.would_fit) == (False, (Shape(720, 1280, 49),))
    assert sampler.reason == "the last run of this workflow ran out of memory"


def test_what_another_node_decides_is_not_known(desk: Desk) -> None:
    desk.plan(made_up_plan(*PLANNED), Wan21Request("any"))
    desk.monitor_saw(*V6E)
    prompt = workflow(desk.checkpoint, num_inference_steps=["5", 0])
    assert desk.asking({**prompt, "5": {"class_type": "Mixer", "inputs": {}}}).by is None


def test_a_checkpoint_that_is_not_here_is_looked_for_at_no_hub(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_the_hub(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", ask_the_hub)
    desk.monitor_saw(*V6E)
    assert desk.asking(workflow("Wan-AI/There-Is-None")).by is None
    assert desk.asking(workflow("no such folder")).by is None


def test_another_shape_is_expected_at_the_rate_of_the_models_last_run(desk: Desk) -> None:
    """The pipeline and jax's devices are there, as after the first run of any node of ours."""
    import jax

    pipeline = MODELS["wan2.1-t2v"].pipeline()
    for name in ("jax", "jax._src.xla_bridge", pipeline.__module__):
        desk.modules[name] = sys.modules[name]
    devices = len(jax.devices())
    device = dataclasses.replace(CPU, count=devices, chips=float(devices))
    before = work_of(desk, Wan21Request("", num_inference_steps=10))
    ran = executed(100.0, params={"workflow": "another"}, device=device)
    stages = [
        stage
        if stage.node
        else dataclasses.replace(stage, pipeline="wan2.1-t2v", flops=before[stage.name], hbm=())
        for stage in ran.stages
    ]
    desk.ran(dataclasses.replace(ran, stages=tuple(stages)))

    after = work_of(desk, Wan21Request("", height=480, width=832, num_inference_steps=20))
    answer = desk.ask(height=480, width=832, num_inference_steps=20)
    denoising = 100.0 * after[StageName.DENOISE] / before[StageName.DENOISE]
    decoding = 20.0 * after[StageName.VAE_DECODE] / before[StageName.VAE_DECODE]
    assert answer.by == "scaled"
    assert answer.nodes[0].seconds == pytest.approx(denoising)
    assert answer.seconds == pytest.approx(8.0 + denoising + decoding)
    assert answer.nodes[0].fits is None
    assert desk.ask(num_devices=1).by is None  # nobody knows the rate of one of several


def work_of(desk: Desk, request: Wan21Request) -> Mapping[StageName, float]:
    import jax

    from crystools_pipelines.weights.checkpoint import Checkpoint

    pipeline, checkpoint = MODELS["wan2.1-t2v"].pipeline(), Checkpoint(desk.checkpoint)
    mesh = pipeline.mesh(jax.devices(), checkpoint, request.branches)
    work = pipeline.work(mesh, checkpoint, request, pipeline.prepare(request, checkpoint))
    return {each.name: each.flops for each in work}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {"1": {"class_type": "Saver"}}}, "prompt"),
        ({"prompt": {"1": {"class_type": "Saver", "inputs": {"images": ["2", 0]}}}}, "prompt"),
        ({"prompt": {}, "seed": 1}, "seed"),
    ],
)
async def test_what_is_no_workflow_is_refused_by_its_field(
    stand_in: StandIn, body: dict[str, Any], field: str
) -> None:
    modules = {**stand_in.modules(), **FakeExecution(CLASSES).modules()}
    attach(stand_in.folder("crystools-tpu"), modules)
    async with TestClient(TestServer(stand_in.app)) as client:
        answer = await client.post("/api/crystools-tpu/api/expected", json=body)
        assert (answer.status, (await answer.json())["error"]["field"]) == (400, field)


async def test_the_panel_answers_on_comfyuis_server_and_no_page_of_another_site(stand_in: StandIn) -> None:
    modules = {**stand_in.modules(), **FakeExecution(CLASSES).modules()}
    attach(stand_in.folder("crystools-tpu"), modules, {"CRYSTOOLS_TPU_PRICE_PER_CHIP_HOUR": "1.20"})
    async with TestClient(TestServer(stand_in.app)) as client:
        where, body = "/crystools-tpu/api/expected", {"prompt": workflow("nowhere")}
        answer = await (await client.post(where, json=body)).json()
        assert (answer["schema"], answer["by"], answer["nodes"][0]["node"]["id"]) == (1, None, "2")
        foreign = {"Origin": "https://evil.example"}
        assert (await client.post(where, json=body, headers=foreign)).status == 403
        settings = await (await client.get("/crystools-tpu/api/settings")).json()
        assert settings["price_per_chip_hour"] == 1.2


def test_a_node_that_is_not_installed_is_no_reason_to_fail(desk: Desk) -> None:
    prompt = workflow(desk.checkpoint)
    prompt["3"]["class_type"] = "NotInstalled"
    assert desk.asking(prompt).nodes[0].node.id == "2"


def test_a_graph_that_lacks_a_node_is_refused(desk: Desk) -> None:
    prompt = workflow(desk.checkpoint)
    del prompt["1"]
    with pytest.raises(FieldError, match="prompt has no node '1', which another node needs"):
        desk.asking(prompt)
