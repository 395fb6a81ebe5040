"""The models' nodes: the contract that workflows rely on, what is refused, and what a chain of them makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from crystools_pipelines.errors import RequestError
from crystools_pipelines.nodes.base import locate
from crystools_pipelines.planning import forecasting
from crystools_pipelines.planning.plan import Plan, RunSpec
from crystools_pipelines.tiny import on_demand
from crystools_tpu import telemetry
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS
from crystools_tpu.comfyui.timing_nodes import TPUTimingPlot, TPUTimingReport
from crystools_tpu.telemetry import Status
from tests.planning.plans import GIB, made_up_plan, made_up_stage

PROMPT = ("STRING", "")
STEPS = ("INT", 50, 1, 100, 1)
DEVICES = ("INT", 0, 0, 256, 1)
FPS = ("INT", 16, 1, 60, 1)
SEED = ("INT", 0, 2**64 - 1, 1)
WAN21 = ("STRING", "Wan-AI/Wan2.1-T2V-14B-Diffusers")
WAN22_T2V = ("STRING", "Wan-AI/Wan2.2-T2V-A14B-Diffusers")
WAN22 = ("STRING", "Wan-AI/Wan2.2-I2V-A14B-Diffusers")
FLUX2 = ("STRING", "black-forest-labs/FLUX.2-dev")
WAN_SIZE = {
    "height": ("INT", 720, 256, 1280, 16),
    "width": ("INT", 1280, 256, 1280, 16),
    "num_frames": ("INT", 81, 17, 121, 4),
}
FLUX2_SIZE = {"height": ("INT", 1024, 256, 2048, 16), "width": ("INT", 1024, 256, 2048, 16)}
GUIDANCE = ("FLOAT", 5.0, 0.0, 20.0, 0.1)

LORA = {"lora": ("TPU_LORA",)}
CACHE = {"step_cache": ("STRING", "")}
SIGMAS = {"sigmas": ("STRING", "")}


def scheduler(*names: str) -> dict[str, tuple[Any, ...]]:
    return {"scheduler": (["checkpoint's own", *names], "checkpoint's own")}


FLOW = scheduler("unipc", "euler", "dpm++")
WAN_LATER = {
    **LORA,
    **FLOW,
    **SIGMAS,
    "timesteps": ("STRING", ""),
    **CACHE,
}
FLUX2_LATER = {**LORA, **FLOW, **SIGMAS, **CACHE}
COGVIDEOX_LATER = {**LORA, **scheduler("ddim", "dpm"), **CACHE}
WAN_ASKED = {
    "prompt": PROMPT,
    "negative_prompt": PROMPT,
    **WAN_SIZE,
    "num_inference_steps": STEPS,
    "guidance_scale": GUIDANCE,
}

FLUX2_NODES: dict[str, tuple[dict[str, tuple[Any, ...]], list[str]]] = {
    "TextEncoder": ({"prompt": PROMPT, "model_id": FLUX2}, ["prompt_embeds"]),
    "TPUSampler": (
        {
            "prompt_embeds": ("FLUX2_EMBEDDINGS",),
            **FLUX2_SIZE,
            "num_inference_steps": STEPS,
            "guidance_scale": ("FLOAT", 4.0, 0.0, 20.0, 0.1),
            "seed": ("INT", 42, 0, 2**64 - 1, 1),
            "model_id": FLUX2,
            "num_devices": DEVICES,
            **FLUX2_LATER,
        },
        ["latents"],
    ),
    "TPUVAEDecoder": ({"latents": ("FLUX2_LATENTS",), **FLUX2_SIZE, "model_id": FLUX2}, ["image IMAGE"]),
}

# Of every node its inputs in order, each a type, a default, and a range with its step; and its outputs
# before `timing`, with the type where it is one of ComfyUI's own.
CONTRACT: dict[str, tuple[dict[str, tuple[Any, ...]], list[str]]] = {
    "CogVideoXTextEncoder": (
        {"prompt": PROMPT, "negative_prompt": PROMPT, "model_id": ("STRING", "zai-org/CogVideoX1.5-5B")},
        ["embeddings"],
    ),
    "CogVideoXTPUSampler": (
        {
            "embeddings": ("COGVIDEOX_EMBEDDINGS",),
            "height": ("INT", 720, 256, 1080, 8),
            "width": ("INT", 1280, 256, 1920, 8),
            "num_frames": ("INT", 81, 17, 161, 8),
            "num_inference_steps": STEPS,
            "guidance_scale": ("FLOAT", 6.0, 1.0, 20.0, 0.1),
            "seed": ("INT", 42, 0, 2**64 - 1, 1),
            "num_devices": DEVICES,
            **COGVIDEOX_LATER,
        },
        ["latents", "info STRING"],
    ),
    "CogVideoXTPUVAEDecoder": (
        {"latents": ("COGVIDEOX_LATENTS",), "fps": FPS},
        ["frames IMAGE", "fps INT"],
    ),
    "Wan21TextEncoder": (
        {"prompt": PROMPT, "negative_prompt": PROMPT, "model_id": WAN21},
        ["prompt_embeds", "negative_prompt_embeds"],
    ),
    "Wan21TPUSampler": (
        {
            "prompt_embeds": ("WAN21_EMBEDDINGS",),
            "negative_prompt_embeds": ("WAN21_EMBEDDINGS",),
            **WAN_SIZE,
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
            "seed": ("INT", 2025, 0, 2**64 - 1, 1),
            "model_id": WAN21,
            "flow_shift": ("FLOAT", 5.0, 1.0, 10.0, 0.5),
            "num_devices": DEVICES,
            **WAN_LATER,
        },
        ["latents", "num_frames INT"],
    ),
    "Wan21TPUVAEDecoder": (
        {"latents": ("WAN21_LATENTS",), "model_id": WAN21, "fps": FPS},
        ["frames IMAGE", "fps INT"],
    ),
    "Wan22T2VTextEncoder": (
        {"prompt": PROMPT, "negative_prompt": PROMPT, "model_id": WAN22_T2V},
        ["prompt_embeds", "negative_prompt_embeds"],
    ),
    "Wan22T2VTPUSampler": (
        {
            "prompt_embeds": ("WAN22_T2V_EMBEDDINGS",),
            "negative_prompt_embeds": ("WAN22_T2V_EMBEDDINGS",),
            **WAN_SIZE,
            "num_inference_steps": ("INT", 40, 1, 100, 1),
            "guidance_scale": ("FLOAT", 4.0, 0.0, 20.0, 0.1),
            "guidance_scale_2": ("FLOAT", 3.0, 0.0, 20.0, 0.1),
            "shift": ("FLOAT", 12.0, 1.0, 20.0, 0.1),
            "seed": ("INT", 0, 0, 2**64 - 1, 1),
            "model_id": WAN22_T2V,
            "boundary_ratio": ("FLOAT", 0.875, 0.0, 1.0, 0.005),
            "num_devices": DEVICES,
            **WAN_LATER,
        },
        ["latents", "num_frames INT"],
    ),
    "Wan22T2VTPUVAEDecoder": (
        {"latents": ("WAN22_T2V_LATENTS",), "model_id": WAN22_T2V, "fps": FPS},
        ["frames IMAGE", "fps INT"],
    ),
    "Wan22I2VImageEncoder": (
        {"image": ("IMAGE",), **WAN_SIZE, "model_id": WAN22},
        ["condition", "latent_info"],
    ),
    "Wan22I2VTextEncoder": (
        {"prompt": PROMPT, "negative_prompt": PROMPT, "model_id": WAN22},
        ["prompt_embeds", "negative_prompt_embeds"],
    ),
    "Wan22I2VTPUSampler": (
        {
            "prompt_embeds": ("WAN22_EMBEDDINGS",),
            "negative_prompt_embeds": ("WAN22_EMBEDDINGS",),
            "condition": ("WAN22_CONDITION",),
            "latent_info": ("WAN22_LATENT_INFO",),
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
            "shift": ("FLOAT", 5.0, 1.0, 20.0, 0.1),
            "seed": ("INT", 0, 0, 2**64 - 1, 1),
            "model_id": WAN22,
            "boundary_ratio": ("FLOAT", 0.9, 0.0, 1.0, 0.01),
            "num_devices": DEVICES,
            **WAN_LATER,
        },
        ["latents", "num_frames INT"],
    ),
    "Wan22I2VTPUVAEDecoder": (
        {"latents": ("WAN22_LATENTS",), "model_id": WAN22, "fps": FPS},
        ["frames IMAGE", "fps INT"],
    ),
    "CogVideoXTPUPipeline": (
        {
            "prompt": PROMPT,
            "negative_prompt": PROMPT,
            "height": ("INT", 720, 256, 1080, 8),
            "width": ("INT", 1280, 256, 1920, 8),
            "num_frames": ("INT", 81, 17, 161, 8),
            "num_inference_steps": STEPS,
            "guidance_scale": ("FLOAT", 6.0, 1.0, 20.0, 0.1),
            "seed": ("INT", 42, 0, 2**64 - 1, 1),
            "model_id": ("STRING", "zai-org/CogVideoX1.5-5B"),
            "fps": FPS,
            "num_devices": DEVICES,
            **COGVIDEOX_LATER,
        },
        ["frames IMAGE", "fps INT"],
    ),
    "Wan21TPUPipeline": (
        {
            **WAN_ASKED,
            "seed": ("INT", 2025, 0, 2**64 - 1, 1),
            "model_id": WAN21,
            "fps": FPS,
            "flow_shift": ("FLOAT", 5.0, 1.0, 10.0, 0.5),
            "num_devices": DEVICES,
            **WAN_LATER,
        },
        ["frames IMAGE", "fps INT"],
    ),
    "Wan22T2VTPUPipeline": (
        {
            **WAN_ASKED,
            "num_inference_steps": ("INT", 40, 1, 100, 1),
            "guidance_scale": ("FLOAT", 4.0, 0.0, 20.0, 0.1),
            "seed": ("INT", 0, 0, 2**64 - 1, 1),
            "model_id": WAN22_T2V,
            "fps": FPS,
            "guidance_scale_2": ("FLOAT", 3.0, 0.0, 20.0, 0.1),
            "shift": ("FLOAT", 12.0, 1.0, 20.0, 0.1),
            "boundary_ratio": ("FLOAT", 0.875, 0.0, 1.0, 0.005),
            "num_devices": DEVICES,
            **WAN_LATER,
        },
        ["frames IMAGE", "fps INT"],
    ),
    "Wan22I2VTPUPipeline": (
        {
            "image": ("IMAGE",),
            **WAN_ASKED,
            "seed": ("INT", 0, 0, 2**64 - 1, 1),
            "model_id": WAN22,
            "fps": FPS,
            "shift": ("FLOAT", 5.0, 1.0, 20.0, 0.1),
            "boundary_ratio": ("FLOAT", 0.9, 0.0, 1.0, 0.01),
            "num_devices": DEVICES,
            **WAN_LATER,
        },
        ["frames IMAGE", "fps INT"],
    ),
    "Flux2TPUPipeline": (
        {
            "prompt": PROMPT,
            "height": ("INT", 1024, 256, 2048, 64),
            "width": ("INT", 1024, 256, 2048, 64),
            "num_inference_steps": STEPS,
            "guidance_scale": ("FLOAT", 4.0, 0.0, 20.0, 0.1),
            "seed": ("INT", 42, 0, 2**64 - 1, 1),
            "model_id": FLUX2,
            "num_devices": DEVICES,
            **FLUX2_LATER,
        },
        ["image IMAGE"],
    ),
    **{f"Flux2{role}": node for role, node in FLUX2_NODES.items()},
    **{f"FluxTPU{role.removeprefix('TPU')}": node for role, node in FLUX2_NODES.items()},
}


def inputs_of(node: type[Any]) -> dict[str, Any]:
    """Of a node as `/object_info` has them, in the order in which the page shows them."""
    types = json.loads(json.dumps(node.INPUT_TYPES()))
    return {**types["required"], **types.get("optional", {})}


@pytest.mark.parametrize("name", CONTRACT)
def test_a_node_has_the_inputs_and_outputs_that_workflows_rely_on(name: str) -> None:
    node = NODE_CLASS_MAPPINGS[name]
    inputs, outputs = CONTRACT[name]
    of_range = ("default", "min", "max", "step")
    declared = {
        input_: (type_, *(about[key] for key in of_range if key in about))
        for input_, (type_, about) in inputs_of(node).items()
    }
    whole = {key: (*value, 1) if len(value) == 4 else value for key, value in declared.items()}
    assert list(whole.items()) == list(inputs.items())
    assert list(node.RETURN_NAMES) == [*(output.partition(" ")[0] for output in outputs), "timing"]
    named = zip(node.RETURN_TYPES, outputs, strict=False)
    assert [str(type_) for type_, output in named if " " in output] == [
        output.partition(" ")[2] for output in outputs if " " in output
    ]
    assert node.RETURN_TYPES[-1] == "TPU_TIMING"


def test_there_are_no_other_nodes() -> None:
    assert set(NODE_CLASS_MAPPINGS) == {*CONTRACT, "TPULora", "TPUTimingReport", "TPUTimingPlot"}


def test_what_published_workflows_have_is_required_and_what_they_lack_is_optional() -> None:
    for name in ("Wan21TPUSampler", "CogVideoXTPUSampler", "Flux2TPUSampler"):
        assert next(iter(NODE_CLASS_MAPPINGS[name].INPUT_TYPES()["optional"])) == "num_devices"
    for name in (each for each in CONTRACT if each.endswith("TPUPipeline")):
        required = NODE_CLASS_MAPPINGS[name].INPUT_TYPES()["required"]
        assert list(required)[-1] == "seed"


def test_prompts_are_multiline_and_a_seed_has_the_frontends_widget_after_it() -> None:
    for name in CONTRACT:
        for input_, (_, about) in inputs_of(NODE_CLASS_MAPPINGS[name]).items():
            assert about.get("multiline", False) == input_.endswith("prompt")
            assert about.get("control_after_generate", False) == (input_ == "seed")


def test_no_model_takes_what_another_has_made() -> None:
    """Every socket of the models' own is taken by the nodes of one model alone."""
    takers: dict[str, set[str]] = {}
    for name in CONTRACT:
        node = NODE_CLASS_MAPPINGS[name]
        for type_ in (type_ for type_, _ in inputs_of(node).values() if isinstance(type_, str)):
            takers.setdefault(type_, set()).add(node.MODEL)
    own = {type_: models for type_, models in takers.items() if "_" in type_ and type_ != "TPU_LORA"}
    assert len(own) == 12
    assert all(len(models) == 1 for models in own.values())


def test_fps_fits_the_input_of_comfyuis_create_video_too() -> None:
    """That takes a FLOAT; ComfyUI compares with `!=`."""
    fps = NODE_CLASS_MAPPINGS["Wan21TPUVAEDecoder"].RETURN_TYPES[1]
    assert [type_ for type_ in ("INT", "FLOAT", "STRING") if fps != type_] == ["STRING"]
    assert json.dumps(fps) == '"INT"'


@pytest.mark.parametrize(
    ("name", "given", "verdict"),
    [
        ("Wan21TPUSampler", {}, True),
        ("Wan21TPUSampler", {"num_frames": 82}, "num_frames: 82 is not of the form 4n+1; 81 or 85 would do"),
        ("Wan21TPUSampler", {"num_frames": 125}, "num_frames: 125 is out of range; give 17 to 121"),
        (
            "Wan21TPUSampler",
            {"height": 8, "num_frames": 82},
            "height: 8 is out of range; give 256 to 1280\n"
            "num_frames: 82 is not of the form 4n+1; 81 or 85 would do",
        ),
        ("Wan21TPUSampler", {"height": None}, True),  # what another node gives is not known yet
        ("Wan22I2VImageEncoder", {"width": 840}, "width: 840 is not a positive multiple of 16; 832 would do"),
        ("CogVideoXTPUSampler", {}, True),
        (
            "CogVideoXTPUSampler",
            {"num_frames": 83},
            "num_frames: 83 is not of the form 8n or 8n+1; 81 or 89 would do",
        ),
        (
            "CogVideoXTPUSampler",
            {"height": 1080},
            "height: 1080 is not a positive multiple of 16; 1072 would do",
        ),
        ("FluxTPUSampler", {"height": 240}, "height: 240 is out of range; give 256 to 2048"),
        ("Wan21TPUPipeline", {"num_frames": 18}, "num_frames: 18 is not of the form 4n+1; 17 or 21 would do"),
        ("Wan21TPUPipeline", {"sigmas": "1, 0.75, 0.5", "num_inference_steps": 3}, True),
        (
            "Wan21TPUPipeline",
            {"sigmas": "1, 0.75, 0.5", "num_inference_steps": 4},
            "num_inference_steps: 4 disagrees with the 3 sigmas or timesteps; leave one of the two out",
        ),
        ("FluxTPUSampler", {"sigmas": "0.5, 1"}, "sigmas: 1.0 follows 0.5; give them falling"),
        (
            "CogVideoXTPUSampler",
            {"step_cache": "magic"},
            "step_cache: 'magic' is no step cache; give first-block:THRESHOLD, "
            "mag:THRESHOLD[,RETENTION,MAX], taylorseer:INTERVAL or calibrate",
        ),
        ("Flux2TPUVAEDecoder", {"width": 1000}, "width: 1000 is not a positive multiple of 16; 992 would do"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(
    name: str, given: dict[str, Any], verdict: bool | str
) -> None:
    node = NODE_CLASS_MAPPINGS[name]
    asked = node.VALIDATE_INPUTS.__func__.__code__
    inputs = inputs_of(node)
    names = [name for name in asked.co_varnames[1 : asked.co_argcount] if name in inputs]
    defaults = {input_: inputs[input_][1]["default"] for input_ in names}
    assert node.VALIDATE_INPUTS(**{**defaults, **given}) == verdict


@pytest.mark.parametrize("name", [name for name in CONTRACT if "model_id" in CONTRACT[name][0]])
def test_a_model_that_is_neither_a_folder_nor_org_and_name_is_refused(name: str) -> None:
    node = NODE_CLASS_MAPPINGS[name]
    asked = node.VALIDATE_INPUTS.__func__.__code__
    unknown = dict.fromkeys(asked.co_varnames[1 : asked.co_argcount])
    assert node.VALIDATE_INPUTS(**{**unknown, "model_id": "wan"}) == (
        "model_id: 'wan' is no folder; give one, or a hub id of the form org/name, "
        f"or tiny-{node.MODEL} to try it: that is made for you"
    )


def test_a_model_is_a_folder_one_of_comfyuis_or_on_the_hub(tmp_path: Path) -> None:
    models = tmp_path / "models" / "diffusers"
    (models / "org" / "name").mkdir(parents=True)
    folder_paths = ModuleType("folder_paths")
    roots = [str(models)]
    folder_paths.get_folder_paths = {"diffusers": roots}.__getitem__  # type: ignore[attr-defined]
    modules = {"folder_paths": folder_paths}
    assert locate(str(tmp_path), modules=modules) == str(tmp_path)
    assert locate("org/name", modules=modules) == str(models / "org" / "name")
    assert locate("org/name", modules={}) == "org/name"
    for nothing in ("tiny", "", "a/b/c", "/nowhere"):
        with pytest.raises(RequestError, match=r"^model_id: .* is no folder, nor one in .*diffusers; give"):
            locate(nothing, modules=modules)


@pytest.mark.usefixtures("compile_cache")
def test_a_tiny_model_that_is_missing_is_valid_is_made_once_and_the_run_says_so(
    tiny_wan21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(on_demand, "write_tiny_checkpoint", lambda model, to: shutil.copytree(tiny_wan21, to))
    node, folder = (
        NODE_CLASS_MAPPINGS["Wan21TextEncoder"],
        tmp_path / "data" / "tiny-models" / "tiny-wan2.1-t2v",
    )
    assert node.VALIDATE_INPUTS(model_id="tiny-wan2.1-t2v") is True
    assert not folder.exists()
    for warnings in (
        (f"tiny-wan2.1-t2v was made in {folder}: its weights are random, and so is what it shows",),
        (),
    ):
        execute("Wan21TextEncoder", **PROMPTS, model_id="tiny-wan2.1-t2v")
        assert telemetry.history.reports()[0].warnings == warnings
    (tmp_path / "tiny-wan2.1-t2v").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("tiny-wan2.1-t2v", modules={}) == "tiny-wan2.1-t2v"  # a folder of that name comes first


@pytest.fixture(autouse=True)
def _made_up_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request counts as planned for a v6e-8; the plan is made up, a GiB for each row."""

    def read_plans(folder: Path, spec: RunSpec) -> list[Plan]:
        denoise = made_up_stage("denoise", "transformer", peak_gib=spec.request.height)
        return [made_up_plan(denoise, model=spec.model, mesh=spec.mesh)]

    monkeypatch.setattr(forecasting, "read_plans", read_plans)
    monkeypatch.setattr(forecasting, "topology_of", lambda devices: "v6e-8")


def execute(name: str, **inputs: Any) -> Any:
    """What the node gives, without its timing. What denoises knows what was planned of its request."""
    node = NODE_CLASS_MAPPINGS[name]
    outputs = getattr(node(), node.FUNCTION)(**inputs)
    assert len(outputs) == len(node.RETURN_TYPES)
    report = telemetry.report_from_wire(outputs[-1])
    assert (report.pipeline, report.status) == (node.MODEL, Status.SUCCEEDED)
    assert telemetry.history.reports()[0] == report
    assert report.params["node"] == node.__name__
    predicted = [stage.predicted_hbm_peak_bytes for stage in report.stages if stage.name == "denoise"]
    denoises = name.endswith(("Sampler", "Pipeline"))
    assert predicted[:1] == ([32 * GIB] if denoises else [])
    assert (report.forecast is not None) == denoises
    return outputs[0] if len(outputs) == 2 else outputs[:-1]


PROMPTS: dict[str, Any] = {"prompt": "a red ball", "negative_prompt": "dark"}
VIDEO: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 2, "seed": 7}


@pytest.mark.usefixtures("compile_cache")
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_wan21s_chain_makes_what_generate_makes(tiny_wan21: Path, guidance_scale: float) -> None:
    from crystools_pipelines.run import generate
    from crystools_pipelines.wan.wan21_t2v.request import Wan21Request

    model = {"model_id": str(tiny_wan21)}
    prompt, negative = execute("Wan21TextEncoder", **PROMPTS, **model)
    latents, num_frames = execute(
        "Wan21TPUSampler",
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        **VIDEO,
        guidance_scale=guidance_scale,
        flow_shift=3.0,
        num_devices=2,
        **model,
    )
    frames, fps = execute("Wan21TPUVAEDecoder", latents=latents, fps=24, **model)
    settings: dict[str, Any] = {"guidance_scale": guidance_scale, "flow_shift": 3.0}
    expected = generate(Wan21Request(**PROMPTS, **VIDEO, **settings), checkpoint=tiny_wan21)
    np.testing.assert_allclose(frames.numpy(), expected.frames, atol=2 / 255)
    assert (num_frames, fps) == (9, 24)
    whole, fps = execute("Wan21TPUPipeline", **PROMPTS, **VIDEO, **settings, **model, fps=8)
    np.testing.assert_array_equal(whole.numpy(), expected.frames)
    assert fps == 8


@pytest.mark.usefixtures("compile_cache")
def test_two_chained_loras_go_into_the_weights_of_a_sampler_and_of_a_pipeline(
    tiny_wan21: Path, tmp_path: Path
) -> None:
    from crystools_pipelines.requests.lora import Lora
    from crystools_pipelines.run import generate
    from crystools_pipelines.tiny.lora import write_tiny_lora
    from crystools_pipelines.wan.wan21_t2v.request import Wan21Request

    file = str(write_tiny_lora("wan2.1-t2v", tmp_path / "detail.safetensors"))
    lora, model = (Lora(file, 0.5), Lora(file, 0.25)), {"model_id": str(tiny_wan21)}
    asked: dict[str, Any] = {**VIDEO, "guidance_scale": 5.0, "flow_shift": 3.0, "scheduler": "euler"}
    request = Wan21Request(**PROMPTS, **asked, loras=(Lora(file, 0.75),))
    expected = generate(request, checkpoint=tiny_wan21)
    whole, _ = execute("Wan21TPUPipeline", **PROMPTS, **asked, lora=lora, **model)
    np.testing.assert_allclose(whole.numpy(), expected.frames, atol=1 / 255)
    params = telemetry.history.reports()[0].params
    assert (params["loras"], params["scheduler"]) == (f"{file}=0.5, {file}=0.25", "euler")
    prompt, negative = execute("Wan21TextEncoder", **PROMPTS, **model)
    embeddings = {"prompt_embeds": prompt, "negative_prompt_embeds": negative}
    latents, _ = execute("Wan21TPUSampler", **embeddings, **asked, lora=lora, **model)
    np.testing.assert_allclose(latents.values, expected.latents, atol=1e-3)


@pytest.mark.usefixtures("compile_cache")
def test_wan22s_chain_makes_what_generate_makes_of_the_same_picture(
    tiny_wan22_i2v: Path, tmp_path: Path
) -> None:
    import torch
    from PIL import Image

    from crystools_pipelines.run import generate
    from crystools_pipelines.wan.wan22_i2v.request import Wan22I2VRequest

    picture = np.random.default_rng(1).integers(0, 256, (40, 70, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "start.png")
    image = torch.from_numpy(picture.astype(np.float32) / 255)[None]
    model = {"model_id": str(tiny_wan22_i2v)}
    size = {name: VIDEO[name] for name in ("height", "width", "num_frames")}
    settings: dict[str, Any] = {
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "shift": 4.0,
        "boundary_ratio": 0.95,
        "seed": 7,
    }
    prompt, negative = execute("Wan22I2VTextEncoder", **PROMPTS, **model)
    condition, info = execute("Wan22I2VImageEncoder", image=image, **size, **model)
    latents, num_frames = execute(
        "Wan22I2VTPUSampler",
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        condition=condition,
        latent_info=info,
        **settings,
        **model,
    )
    frames, _ = execute("Wan22I2VTPUVAEDecoder", latents=latents, fps=16, **model)
    request = Wan22I2VRequest(**PROMPTS, **size, **settings, image=tmp_path / "start.png")
    expected = generate(request, checkpoint=tiny_wan22_i2v)
    np.testing.assert_allclose(frames.numpy(), expected.frames, atol=2 / 255)
    assert num_frames == 9
    whole, _ = execute("Wan22I2VTPUPipeline", image=image, **PROMPTS, **size, **settings, **model)
    np.testing.assert_allclose(whole.numpy(), expected.frames, atol=2 / 255)


@pytest.mark.usefixtures("compile_cache")
def test_cogvideoxs_chain_makes_what_generate_makes(tiny_cogvideox: Path) -> None:
    from crystools_pipelines.cogvideox.request import CogVideoXRequest
    from crystools_pipelines.run import generate

    embeddings = execute("CogVideoXTextEncoder", **PROMPTS, model_id=str(tiny_cogvideox))
    latents, info = execute("CogVideoXTPUSampler", embeddings=embeddings, guidance_scale=6.0, **VIDEO)
    frames, _ = execute("CogVideoXTPUVAEDecoder", latents=latents, fps=16)
    expected = generate(CogVideoXRequest(**PROMPTS, **VIDEO), checkpoint=tiny_cogvideox)
    np.testing.assert_allclose(frames.numpy(), expected.frames, atol=2 / 255)
    assert "cogvideox-t2v succeeded" in info
    assert "denoise transformer" in info


@pytest.fixture
def flux2_latents(tiny_flux2: Path, compile_cache: None) -> Any:
    """Of an image of 32 x 48."""
    model = {"model_id": str(tiny_flux2)}
    embeddings = execute("FluxTPUTextEncoder", prompt="a cat", **model)
    settings = {"height": 32, "width": 48, "num_inference_steps": 2, "guidance_scale": 4.0, "seed": 7}
    return execute("FluxTPUSampler", prompt_embeds=embeddings, **settings, **model)


def test_flux2s_chain_makes_what_generate_makes(tiny_flux2: Path, flux2_latents: Any) -> None:
    from crystools_pipelines.flux2.request import Flux2Request
    from crystools_pipelines.run import generate

    size, model = {"height": 32, "width": 48}, {"model_id": str(tiny_flux2)}
    image = execute("FluxTPUVAEDecoder", latents=flux2_latents, **size, **model)
    expected = generate(Flux2Request("a cat", 32, 48, 2, 4.0, 7), checkpoint=tiny_flux2)
    np.testing.assert_allclose(image.numpy(), expected.frames, atol=2 / 255)
    asked = {"prompt": "a cat", **size, "num_inference_steps": 2, "guidance_scale": 4.0, "seed": 7}
    np.testing.assert_array_equal(execute("Flux2TPUPipeline", **asked, **model).numpy(), expected.frames)
    refused = r"^width: 64 is not that of the latents; give 48, as the sampler had it$"
    with pytest.raises(RequestError, match=refused):
        execute("Flux2TPUVAEDecoder", latents=flux2_latents, height=32, width=64, model_id=str(tiny_flux2))
    refused = r"^latents: these are of flux.2; connect those of wan2.1-t2v$"
    with pytest.raises(RequestError, match=refused):
        execute("Wan21TPUVAEDecoder", latents=flux2_latents, fps=16, model_id=str(tiny_flux2))


def test_what_a_node_hands_on_outlives_unload_models_and_feeds_the_timing_nodes(
    tiny_flux2: Path, flux2_latents: Any
) -> None:
    from crystools_pipelines.runtime.residency import free_all

    freed = free_all()
    assert [(component.component, component.model) for component in freed][-1] == (
        "transformer",
        str(tiny_flux2),
    )
    node = NODE_CLASS_MAPPINGS["FluxTPUVAEDecoder"]
    _, timing = node().decode(latents=flux2_latents, height=32, width=48, model_id=str(tiny_flux2))
    _, again = node().decode(latents=flux2_latents, height=32, width=48, model_id=str(tiny_flux2))
    summary, report_json = TPUTimingReport().report(timing_1=timing, timing_2=again)["result"]
    assert summary.count("vae_decode") == 2
    assert [run["run_id"] for run in json.loads(report_json)["runs"]] == [timing["run_id"], again["run_id"]]
    (plot,) = TPUTimingPlot().plot(640, 368, timing_1=timing, timing_2=again)
    assert tuple(plot.shape) == (1, 368, 640, 3)


def test_more_chips_than_there_are_is_refused_by_the_inputs_name(tiny_wan21: Path) -> None:
    from crystools_pipelines.nodes.handed import Embeddings

    embeddings = Embeddings("wan2.1-t2v", str(tiny_wan21), "a cat", np.zeros((1, 512, 64), np.float32))
    sampler = NODE_CLASS_MAPPINGS["Wan21TPUSampler"]()
    given = {"prompt_embeds": embeddings, "negative_prompt_embeds": embeddings, "model_id": str(tiny_wan21)}
    settings = {**VIDEO, "guidance_scale": 5.0, "flow_shift": 5.0}
    with pytest.raises(RequestError, match=r"^num_devices: 9 is out of range; give 1 to 8, or 0 for all$"):
        sampler.sample(**given, **settings, num_devices=9)
    narrow = Embeddings("wan2.1-t2v", "org/other", "a cat", np.zeros((1, 512, 7), np.float32))
    refused = r"^negative_prompt_embeds: those of org/other have width 7, the transformer takes 64; give"
    with pytest.raises(RequestError, match=refused):
        sampler.sample(**{**given, "negative_prompt_embeds": narrow}, **settings)
