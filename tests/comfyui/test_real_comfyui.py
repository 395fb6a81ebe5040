"""The real ComfyUI, started from the checkout in `COMFYUI_DIR`, with this repository as a clone in it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import pytest
from PIL import Image

from crystools_pipelines.models import MODELS
from crystools_pipelines.tiny.on_demand import tiny_lora_name, tiny_name
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS
from docs.make_workflows import TEMPLATES
from tests.rigs.comfyui import running_comfyui

from .conftest import COMFYUI_DIR
from .test_door import ROOT
from .tiny_wan import write_tiny_wan
from .workflows import prompt_of

pytestmark = pytest.mark.real_comfyui

CLONE: Final = "my-renamed.clone"
NEW_USERS: Final = "wan2.1-t2v"
"""The model that a new user tries first, by the page and not by the API."""
PATIENCE_SECONDS: Final = 180.0
ROUNDS: Final = 20
SCRIPT: Final = """
import time
from crystools_tpu import telemetry

with telemetry.run("my-pipeline") as run:
    with run.stage("denoise", steps=30) as stage:
        for i in range(30):
            time.sleep(0.5)
            stage.step(None)
"""
PREVIEW_IMAGE_WITH_METADATA: Final = 4
PACKS: Final = {
    CLONE: ROOT,
    "test-pack": Path(__file__).with_name("pack"),
    "test-pack-v3": Path(__file__).with_name("pack_v3"),
}
COMFYUIS_OWN: Final = {
    "status",
    "execution_start",
    "execution_cached",
    "executing",
    "progress_state",
    "executed",
    "execution_success",
}


@dataclass
class ComfyUI:
    """A running ComfyUI and its log."""

    url: str
    log_file: Path
    checkpoint: Path
    process_id: int
    seeds: Iterator[int] = field(default_factory=lambda: iter(range(1000)))

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_SECONDS) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(self.url + path, data=json.dumps(body or {}).encode())
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.loads(answer.read() or "{}")

    def workflow(self, steps: int = 1) -> dict[str, Any]:
        """A generation whose timing goes to both timing nodes."""
        generation = {"checkpoint": str(self.checkpoint), "seed": next(self.seeds), "steps": steps}
        return {
            "1": {"class_type": "TinyGeneration", "inputs": generation},
            "2": {"class_type": "TPUTimingReport", "inputs": {"timing_1": ["1", 0]}},
            "3": {
                "class_type": "TPUTimingPlot",
                "inputs": {"timing_1": ["1", 0], "width": 640, "height": 368},
            },
            "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        }

    def template(self, name: str, **inputs: Any) -> dict[str, Any]:
        """The prompt of a small template, with a new seed, and these inputs where a node has them."""
        saved = json.loads((ROOT / "example_workflows" / f"{TEMPLATES[name].tiny}.json").read_text())
        prompt = prompt_of(saved, self.get("/object_info"))
        changed = {"seed": next(self.seeds), **inputs}
        for node in prompt.values():
            node["inputs"] |= {key: value for key, value in changed.items() if key in node["inputs"]}
        return prompt

    def run(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """The outputs of a prompt, by node."""
        entry = self.wait(self.post("/prompt", {"prompt": workflow})["prompt_id"])
        assert entry["status"]["status_str"] == "success", entry["status"]
        outputs: dict[str, Any] = entry["outputs"]
        return outputs

    def expected(self, name: str, **inputs: Any) -> dict[str, Any]:
        """What is expected of a template, as the page asks: JavaScript has no 5.0."""
        prompt = self.template(name, **inputs)
        for node in prompt.values():
            given = node["inputs"].items()
            node["inputs"] = {
                key: int(it) if isinstance(it, float) and it % 1 == 0 else it for key, it in given
            }
        answer: dict[str, Any] = self.post("/crystools-tpu/api/expected", {"prompt": prompt})
        return answer

    def wait(self, prompt_id: str) -> dict[str, Any]:
        """How the prompt ended."""
        wait_for(lambda: prompt_id in self.get(f"/history/{prompt_id}"), "the prompt")
        entry: dict[str, Any] = self.get(f"/history/{prompt_id}")[prompt_id]
        return entry

    def ended(self) -> dict[str, Any]:
        """The report of the newest run, once it has ended."""
        wait_for(lambda: [run["status"] for run in self.runs()[:1]] not in ([], ["running"]), "the run")
        return self.runs()[0]

    def runs(self) -> list[dict[str, Any]]:
        """The reports of the runs, newest first."""
        reports: list[dict[str, Any]] = self.get("/crystools-tpu/api/runs")["runs"]
        return reports


def wait_for(condition: Any, what: str) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends, f"{what} took longer than {PATIENCE_SECONDS} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """Its own models, outputs and node packs; nothing of ours is on its path."""
    from crystools_pipelines.tiny import write_tiny_checkpoint

    assert COMFYUI_DIR is not None
    base = tmp_path_factory.mktemp("comfyui")
    checkpoint = write_tiny_checkpoint("wan2.1-t2v", base / "checkpoint")
    write_tiny_wan(base / "models" / "diffusion_models" / "tiny-wan.safetensors")
    (base / "input").mkdir()
    Image.new("RGB", (64, 48), "green").save(base / "input" / "example.png")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "XLA_FLAGS")}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(base / "jax")}
    environment["CRYSTOOLS_TPU_DATA_DIR"] = str(base / "data")
    # What is freed goes back: glibc would keep ever larger pieces, and the heap would grow by its holes.
    environment["MALLOC_MMAP_THRESHOLD_"] = str(2 * 2**20)
    with running_comfyui(
        base,
        PACKS,
        checkout=Path(COMFYUI_DIR),
        python=os.environ.get("COMFYUI_PYTHON", sys.executable),
        environ=environment,
    ) as started:
        yield ComfyUI(started.url, started.log_file, checkpoint, started.process_id)


def test_it_starts_with_no_error_or_warning_of_ours_and_samples_nothing(comfyui: ComfyUI) -> None:
    ours = [line for line in comfyui.log.splitlines() if "crystools" in line.lower() or CLONE in line]
    assert len(ours) == 1, ours
    assert ours[0].endswith(f"seconds: {comfyui.log_file.parent / 'custom_nodes' / CLONE}")
    assert comfyui.get("/api/crystools-tpu/api/health")["samples_total"] == 0


def test_object_info_has_every_node_with_its_inputs(comfyui: ComfyUI) -> None:
    info = comfyui.get("/object_info")
    for name, node in NODE_CLASS_MAPPINGS.items():
        assert info[name]["input"] == json.loads(json.dumps(node.INPUT_TYPES()))
        assert info[name]["output"] == list(node.RETURN_TYPES)
        assert info[name]["output_name"] == list(node.RETURN_NAMES)


def test_the_page_of_a_renamed_clone_loads_one_file_and_finds_its_styles(comfyui: ComfyUI) -> None:
    (ours,) = [path for path in comfyui.get("/extensions") if path.endswith("crystools-tpu.js")]
    assert ours == f"/extensions/{CLONE}/crystools-tpu.js"
    for path in (ours, "/crystools-tpu/style.css", "/api/crystools-tpu/style.css"):
        with urllib.request.urlopen(comfyui.url + path) as answer:
            assert answer.status == 200


# A card's picture, ComfyUI's own too, is fetched when the card is scrolled into sight, and not when it comes
# there because somebody types.
PICTURE_SHOWN = """title => {
  const cards = [...document.querySelectorAll('[data-testid^="template-workflow-"]')];
  const card = cards.find(({ dataset }) => dataset.testid === `template-workflow-${title}`);
  if (card?.querySelector("img")?.naturalWidth === 512) return true;
  window.away = !window.away;
  const other = cards.indexOf(card) < cards.length / 2 ? cards.at(-1) : cards[0];
  (window.away ? other : card)?.scrollIntoView();
  return false;
}"""


@pytest.mark.timeout(900)  # with ComfyUI's start, and every program of the model is compiled
def test_a_new_user_has_a_video_after_four_clicks_from_the_list_of_templates(comfyui: ComfyUI) -> None:
    """Nothing is there but ComfyUI and the pack: no terminal, no download, no folder for a model."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        patience = PATIENCE_SECONDS * 1000
        page.set_default_timeout(patience)
        page.goto(comfyui.url)
        search = page.get_by_placeholder("Search templates...")
        search.wait_for()  # which the page opens by itself at the first start
        page.keyboard.press("Escape")
        search.wait_for(state="detached")

        page.get_by_role("button", name="Templates", exact=True).click()
        search.click()
        page.keyboard.type("tpu")
        for template in TEMPLATES.values():
            for title in (template.full, template.tiny):
                page.wait_for_function(PICTURE_SHOWN, arg=title, polling=250, timeout=patience)
        page.get_by_test_id(f"template-workflow-{TEMPLATES[NEW_USERS].tiny}").click()
        page.wait_for_function("() => window.app.graph.nodes.length === 7")
        assert page.evaluate("() => window.app.canvas.low_quality") is False
        page.get_by_role("button", name="Run", exact=True).click()

        comfyui.ended()
        video = page.locator("video").first
        video.wait_for()
        expect(video).to_have_js_property("videoWidth", 256, timeout=patience)
        chromium.close()
    assert comfyui.log.count(f"{tiny_name(NEW_USERS)} was made in") == 1
    run = comfyui.ended()
    assert (run["status"], run["name"]) == ("succeeded", TEMPLATES[NEW_USERS].tiny)


def test_timing_nodes_show_a_generation_as_text_and_as_a_picture(comfyui: ComfyUI) -> None:
    outputs = comfyui.run(comfyui.workflow())
    (summary,) = outputs["2"]["text"]
    assert "denoise transformer" in summary
    (image,) = outputs["4"]["images"]
    view = f"{comfyui.url}/view?filename={image['filename']}&type={image['type']}&subfolder="
    with urllib.request.urlopen(view) as answer:
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
    newest = comfyui.ended()
    assert (newest["pipeline"], newest["status"]) == ("comfyui", "succeeded")


async def test_an_api_client_on_comfyuis_socket_hears_not_one_message_of_ours(comfyui: ComfyUI) -> None:
    heard: list[dict[str, Any]] = []
    socket_url = comfyui.url.replace("http", "ws")
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{socket_url}/ws?clientId=api") as theirs,
        session.ws_connect(f"{socket_url}/crystools-tpu/ws") as ours,
    ):
        body = {"prompt": comfyui.workflow(), "client_id": "api"}
        async with session.post(f"{comfyui.url}/prompt", json=body) as answer:
            assert answer.status == 200
        while not heard or heard[-1]["type"] != "execution_success":
            message = await theirs.receive(timeout=PATIENCE_SECONDS)
            assert message.type is aiohttp.WSMsgType.TEXT, message
            heard.append(json.loads(message.data))
            assert heard[-1]["type"] != "execution_error", heard[-1]
        told = set()
        while "run_finished" not in told:
            told.add((await ours.receive_json(timeout=PATIENCE_SECONDS))["type"])
    assert {message["type"] for message in heard} <= COMFYUIS_OWN
    assert {"snapshot", "run_started", "step_finished"} <= told


def test_free_frees_our_hbm_once_and_the_model_loads_again(comfyui: ComfyUI) -> None:
    comfyui.run(comfyui.workflow())
    comfyui.post("/free", {"unload_models": True})  # what other tests have left, too
    wait_for(lambda: not comfyui.get("/test/hbm")["residents"], "the unloading")
    for _ in range(2):
        comfyui.run(comfyui.workflow())
        before = comfyui.get("/test/hbm")
        assert before["residents"] == ["text_encoder", "transformer", "vae"]
        logged = len(comfyui.log)
        comfyui.post("/free", {"unload_models": True})
        wait_for(lambda: not comfyui.get("/test/hbm")["residents"], "the unloading")
        after = comfyui.get("/test/hbm")
        assert before["live_bytes"] - after["live_bytes"] >= before["resident_bytes"] > 0
        freed = [line for line in comfyui.log[logged:].splitlines() if line.startswith("freed: ")]
        assert [line.split()[1] for line in freed] == ["text_encoder", "transformer", "vae"]
        assert sum(int(line.split()[-2]) for line in freed) == before["resident_bytes"]


async def test_system_stats_answers_at_once_while_a_generation_runs_and_a_source_hangs(
    comfyui: ComfyUI,
) -> None:
    """As ComfyUI's own page polls it, with our panel open.

    Not in the first generation of a process: importing jax and diffusers holds the interpreter for up to a
    second at a time, whoever does it.
    """
    comfyui.run(comfyui.workflow())
    comfyui.post("/test/hang")
    seconds: list[float] = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(comfyui.url.replace("http", "ws") + "/crystools-tpu/ws"),
    ):
        generation = asyncio.create_task(asyncio.to_thread(comfyui.run, comfyui.workflow(steps=100)))
        while not generation.done() or len(seconds) < 300:
            begins = time.perf_counter()
            async with session.get(f"{comfyui.url}/system_stats") as answer:
                assert answer.status == 200
                await answer.read()
            seconds.append(time.perf_counter() - begins)
            await asyncio.sleep(0.01)
        await generation
    comfyui.post("/test/resume")
    seconds.sort()
    assert seconds[int(0.99 * len(seconds))] < 0.1, f"of {len(seconds)}: {seconds[-10:]}"


@pytest.mark.parametrize("model", sorted(MODELS.keys() - {NEW_USERS}))
def test_the_small_template_of_each_model_makes_its_model_and_its_file(comfyui: ComfyUI, model: str) -> None:
    outputs = comfyui.run(comfyui.template(model))
    assert comfyui.log.count(f"{tiny_name(model)} was made in") == 1
    (file,) = (entry for output in outputs.values() for entry in output.get("images", []))
    assert file["filename"].startswith(tiny_name(model))
    view = f"{comfyui.url}/view?filename={file['filename']}&type=output&subfolder={file['subfolder']}"
    with urllib.request.urlopen(view) as answer:
        start = answer.read(8)
    assert start == b"\x89PNG\r\n\x1a\n" if model == "flux.2" else start[4:] == b"ftyp"
    (summary,) = next(output["text"] for output in outputs.values() if "text" in output)
    nodes = 4 if model == "wan2.2-i2v" else 3
    run = comfyui.ended()
    assert (run["pipeline"], run["status"]) == ("comfyui", "succeeded")
    parts = [stage for stage in run["stages"] if "parent" in stage]
    assert {stage["pipeline"] for stage in parts} == {model}
    assert {stage["name"] for stage in parts} >= {"load", "text_encode", "denoise", "vae_decode"}
    assert len({run["stages"][stage["parent"]]["component"] for stage in parts}) == nodes
    assert {"prompt", "height", "width", "num_inference_steps", "workflow"} <= run["params"].keys()
    assert summary.count(f"{model} succeeded") == summary.count("memory peak") == 1
    again = comfyui.expected(model)
    assert (again["workflow"], again["by"]) == (run["params"]["workflow"], "history")
    assert [node["fits"] for node in again["nodes"]] == [True]
    others = comfyui.expected(model, num_inference_steps=7)
    assert (others["by"], others["chips"]) == ("scaled", run["device"]["chips"])
    assert 0 < others["nodes"][0]["seconds"] < others["seconds"]


def loras_in(prompt: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in prompt.values() if node["class_type"] == "TPULora"]


def test_the_template_with_a_lora_makes_it_and_a_video_in_four_steps(comfyui: ComfyUI) -> None:
    prompt = comfyui.template("wan2.1-lora")
    outputs = comfyui.run(prompt)
    file = tiny_lora_name("wan2.1-t2v")
    assert comfyui.log.count(f"{file} was made in") == 1
    assert [entry["filename"] for output in outputs.values() for entry in output.get("images", [])]
    run = comfyui.ended()
    assert (run["status"], _steps(run), run["params"]["scheduler"]) == ("succeeded", 4, "euler")
    assert run["params"]["loras"].endswith(f"{file}=1")
    assert any(warning.startswith(f"{file} was made in") for warning in run["warnings"])
    again = comfyui.expected("wan2.1-lora", strength=0.5)
    assert (again["workflow"], again["by"]) == (run["params"]["workflow"], "history")
    assert again["nodes"][0]["loras"] == [f"{file}=0.5"]


def test_a_chain_of_two_loras_runs_with_both_and_compiles_nothing_anew(comfyui: ComfyUI) -> None:
    prompt = comfyui.template("wan2.1-lora", seed=5)
    (lora,) = loras_in(prompt)
    prompt["first"] = node("TPULora", lora_name=lora["inputs"]["lora_name"], strength=0.25, expert="both")
    lora["inputs"] |= {"lora": ["first", 0], "strength": -0.25}
    comfyui.run(prompt)
    run = comfyui.ended()
    assert [text.rpartition("=")[2] for text in run["params"]["loras"].split(", ")] == ["0.25", "-0.25"]
    assert sum(stage.get("recompiles") or 0 for stage in run["stages"]) == 0


def test_a_lora_that_is_not_there_is_refused_with_its_folder(comfyui: ComfyUI) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        comfyui.run(comfyui.template("wan2.1-lora", lora_name="none.safetensors"))
    (faulty,) = json.loads(refused.value.read())["node_errors"].values()
    (error,) = faulty["errors"]
    assert faulty["class_type"] == "TPULora"
    assert error["details"].startswith("lora_name - 'none.safetensors' is no file in ")
    assert "loras; put it there, and press R." in error["details"]


def test_a_whole_pipeline_is_a_run_of_all_stages_in_one_node(comfyui: ComfyUI) -> None:
    outputs = comfyui.run(comfyui.template("wan2.1-whole"))
    assert [entry["filename"] for output in outputs.values() for entry in output.get("images", [])]
    run = comfyui.ended()
    parts = [stage for stage in run["stages"] if "parent" in stage]
    assert {run["stages"][stage["parent"]]["component"] for stage in parts} == {"Wan21TPUPipeline"}
    assert {stage["name"] for stage in parts} >= {"load", "text_encode", "denoise", "vae_decode"}
    assert {"prompt", "height", "width", "num_inference_steps", "workflow"} <= run["params"].keys()
    (summary,) = next(output["text"] for output in outputs.values() if "text" in output)
    assert summary.count("wan2.1-t2v succeeded") == 1
    again = comfyui.expected("wan2.1-whole")
    assert (again["workflow"], again["by"]) == (run["params"]["workflow"], "history")
    others = comfyui.expected("wan2.1-whole", num_inference_steps=7)
    assert (others["by"], others["nodes"][0]["seconds"]) == ("scaled", others["seconds"])
    image = node(
        "Flux2TPUPipeline",
        prompt="a cat",
        height=256,
        width=256,
        num_inference_steps=2,
        guidance_scale=4.0,
        seed=next(comfyui.seeds),
        model_id=tiny_name("flux.2"),
    )
    comfyui.run({"1": image, "2": node("PreviewImage", images=["1", 0])})
    assert comfyui.ended()["params"]["prompt"] == "a cat"


def test_what_cannot_work_is_refused_before_anything_runs(comfyui: ComfyUI) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        comfyui.run(comfyui.template("wan2.1-t2v", num_frames=18, model_id="wan", height=8))
    assert refused.value.code == 400
    nodes = json.loads(refused.value.read())["node_errors"].values()
    said = {node["class_type"]: [error["details"] for error in node["errors"]] for node in nodes}
    assert {kind: len(details) for kind, details in said.items()} == {
        "Wan21TextEncoder": 1,
        "Wan21TPUSampler": 3,
        "Wan21TPUVAEDecoder": 1,
    }
    assert said["Wan21TPUSampler"][:2] == [
        "height - 8 is out of range; give 256 to 1280",
        "num_frames - 18 is not of the form 4n+1; 17 or 21 would do",
    ]
    for details in said.values():
        assert details[-1].startswith("model_id - 'wan' is no folder, nor one in ")
        assert details[-1].endswith(", or tiny-wan2.1-t2v to try it: that is made for you")


@pytest.mark.parametrize(
    ("template", "denoiser"), [("wan2.1-t2v", "Wan21TPUSampler"), ("wan2.1-whole", "Wan21TPUPipeline")]
)
async def test_the_page_that_queued_a_prompt_sees_progress_and_cancel_stops_within_one_step(
    comfyui: ComfyUI, template: str, denoiser: str
) -> None:
    prompt = comfyui.template(template, num_inference_steps=100)
    texts: list[str] = []
    logged = len(comfyui.log)
    bars: list[tuple[int, int]] = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(comfyui.url.replace("http", "ws") + "/ws?clientId=page") as page,
    ):
        async with session.post(
            f"{comfyui.url}/prompt", json={"prompt": prompt, "client_id": "page"}
        ) as answer:
            assert answer.status == 200
        seen, cancelled = 0, False
        while True:
            message = await page.receive(timeout=PATIENCE_SECONDS)
            if message.type is aiohttp.WSMsgType.BINARY:
                length = int.from_bytes(message.data[4:8])
                texts.append(message.data[8 + length :].decode())
                continue
            told = json.loads(message.data)
            if told["type"] == "progress":
                bars.append((told["data"]["value"], told["data"]["max"]))
                if told["data"]["value"] >= 3 and not cancelled:
                    seen, cancelled = _steps(comfyui.runs()[0]), True
                    async with session.post(f"{comfyui.url}/interrupt"):
                        pass
            if told["type"] == "execution_interrupted":
                break
            assert told["type"] not in ("execution_error", "execution_success"), told
    run = comfyui.ended()
    assert run["status"] == "cancelled"
    (sampler,) = [stage for stage in run["stages"] if stage["component"] == denoiser]
    assert sampler["status"] == "cancelled"
    # Two steps may be on their way to the device, and one begins before the word arrives.
    assert 3 <= _steps(run) <= seen + 3, (seen, _steps(run))
    assert bars[-1][1] == 100
    assert any(text.startswith("denoise transformer: step 3/100, ") for text in texts)
    assert texts[-1].startswith(f"cancelled after {_steps(run)} of 100 steps, in ")
    assert "Traceback" not in comfyui.log[logged:]
    assert "error" not in comfyui.log[logged:].lower()


def _steps(run: dict[str, Any]) -> int:
    return sum(len(stage["steps"]) for stage in run["stages"] if stage["name"] == "denoise")


@pytest.mark.timeout(1800)
def test_twenty_generations_with_switches_of_model_grow_neither_memory_nor_threads_nor_files(
    comfyui: ComfyUI, capsys: pytest.CaptureFixture[str]
) -> None:
    process = psutil.Process(comfyui.process_id)
    seen: list[tuple[int, int, int]] = []
    for number in range(ROUNDS):
        model = list(MODELS)[number % len(MODELS)]
        comfyui.run(comfyui.template(model, num_inference_steps=1))
        seen.append((process.memory_info().rss >> 20, process.num_threads(), process.num_fds()))
    with capsys.disabled():
        print("\nMiB, threads, files after each generation:", *seen)
    # By then each model has run twice, and everything that stays is there.
    (mebibytes, threads, files), *later = seen[2 * len(MODELS) - 1 :]
    assert max(use[0] for use in later) < 1.05 * mebibytes
    assert min(use[1] for use in later[-3:]) <= threads  # one may be about to end
    assert max(use[2] for use in later) <= files + 2  # a connection that is just being closed


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def trivial(value: int = 1) -> dict[str, Any]:
    """A number, waited for and shown; each value is another, so that nothing is cached."""
    return {
        "1": node("TestNumber", value=value),
        "2": node("TestWait", value=["1", 0], seconds=0.0),
        "3": node("TestResult", value=["2", 0]),
    }


def stages_of(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The stages of nodes, by their ids."""
    return {stage["node"]["id"]: stage for stage in run["stages"] if "node" in stage}


def top_level_seconds(run: dict[str, Any]) -> float:
    return sum((float(stage["seconds"]) for stage in run["stages"] if "parent" not in stage), 0.0)


def test_a_ksampler_is_a_stage_with_its_steps_and_their_seconds(comfyui: ComfyUI) -> None:
    workflow = {
        "1": node("UNETLoader", unet_name="tiny-wan.safetensors", weight_dtype="default"),
        "2": node("TestWords", text="a cat"),
        "3": node("TestWords", text=""),
        "4": node("EmptyHunyuanLatentVideo", width=64, height=64, length=1, batch_size=1),
        "5": node(
            "KSampler",
            model=["1", 0],
            positive=["2", 0],
            negative=["3", 0],
            latent_image=["4", 0],
            seed=next(comfyui.seeds),
            steps=6,
            cfg=2.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        "6": node("TestLatentResult", samples=["5", 0]),
    }
    assert comfyui.run(workflow)["6"]["text"] == ["True"]
    run = comfyui.ended()
    assert (run["pipeline"], run["status"], run["nodes_total"]) == ("comfyui", "succeeded", 6)
    sampler = stages_of(run)["5"]
    assert (sampler["component"], sampler["steps_total"]) == ("KSampler", 6)
    assert [step.get("kind", "full") for step in sampler["steps"]] == ["first"] + ["full"] * 5
    assert sampler["step_seconds"]["median"] > 0
    assert sum(step["seconds"] for step in sampler["steps"]) <= sampler["seconds"]
    assert sampler["mfu"] is None
    again = {**workflow, "5": {**workflow["5"], "inputs": {**workflow["5"]["inputs"], "seed": 12345}}}
    comfyui.run(again)
    second = comfyui.ended()
    assert sorted(each["id"] for each in second["cached_nodes"]) == ["1", "2", "3", "4"]
    assert sorted(stages_of(second)) == ["5", "6"]
    assert (second["nodes_total"], second["params"]["nodes_cached"]) == (6, 4)
    assert second["params"]["workflow"] == run["params"]["workflow"]


def test_the_stages_add_up_to_what_comfyui_says_the_prompt_took(comfyui: ComfyUI) -> None:
    executed = comfyui.log.count("Prompt executed in")
    comfyui.run(
        {
            "1": node("TestNumber", value=next(comfyui.seeds)),
            "2": node("TestWait", value=["1", 0], seconds=2.0),
            "3": node("TestProgress", value=["2", 0], steps=4, seconds=0.2),
            "4": node("TestExpands", value=["3", 0], times=2, seconds=0.6),
            "5": node("TestResult", value=["4", 0]),
        }
    )
    wait_for(lambda: comfyui.log.count("Prompt executed in") > executed, "the log")
    line = [line for line in comfyui.log.splitlines() if "Prompt executed in" in line][-1]
    seconds = float(line.split()[-2])
    run = comfyui.ended()
    assert seconds >= 4.0
    assert top_level_seconds(run) == pytest.approx(seconds, rel=0.02)
    assert run["total_seconds"] == pytest.approx(seconds, rel=0.02)


def test_a_loop_that_expands_holds_the_nodes_that_it_expands_into(comfyui: ComfyUI) -> None:
    outputs = comfyui.run(
        {
            "1": node("TestNumber", value=10),
            "2": node("TestExpands", value=["1", 0], times=3, seconds=0.05),
            "3": node("TestResult", value=["2", 0]),
        }
    )
    assert outputs["3"]["text"] == ["13"]
    run = comfyui.ended()
    stages = run["stages"]
    chain = [stage["component"] for stage in stages]
    assert chain == ["TestNumber", *["TestExpands", "TestWait"] * 3, "TestExpands", "TestResult"]
    loop = next(index for index, stage in enumerate(stages) if stage["node"]["id"] == "2")
    assert [stage.get("parent") for stage in stages[loop + 1 : loop + 3]] == [loop, loop]
    assert {stage["status"] for stage in stages} == {"succeeded"}
    assert stages[loop]["seconds"] >= 0.15


def test_an_error_is_at_its_node_also_where_another_has_expanded_into_it(comfyui: ComfyUI) -> None:
    workflow = {
        "1": node("TestNumber", value=next(comfyui.seeds)),
        "2": node("TestRaises", value=["1", 0]),
        "3": node("TestResult", value=["2", 0]),
    }
    ended = comfyui.wait(comfyui.post("/prompt", {"prompt": workflow})["prompt_id"])
    assert ended["status"]["status_str"] == "error"
    run = comfyui.ended()
    value = workflow["1"]["inputs"]["value"]
    assert (run["status"], run["error"]) == ("failed", f"ValueError: {value} is no number for it")
    assert {id_: stage["status"] for id_, stage in stages_of(run).items()} == {
        "1": "succeeded",
        "2": "failed",
    }
    workflow["2"] = node("TestExpands", value=["1", 0], times=1, seconds=0.0, raises=True)
    comfyui.wait(comfyui.post("/prompt", {"prompt": workflow})["prompt_id"])
    expanded = comfyui.ended()
    failed = [stage["component"] for stage in expanded["stages"] if stage["status"] == "failed"]
    assert failed == ["TestExpands", "TestExpands", "TestRaises"]


def test_an_interrupt_is_at_its_node(comfyui: ComfyUI) -> None:
    workflow = {
        "1": node("TestNumber", value=next(comfyui.seeds)),
        "2": node("TestProgress", value=["1", 0], steps=600, seconds=0.05),
        "3": node("TestResult", value=["2", 0]),
    }
    prompt_id = comfyui.post("/prompt", {"prompt": workflow})["prompt_id"]
    wait_for(lambda: stages_of(comfyui.runs()[0]).get("2", {}).get("steps"), "the first step")
    comfyui.post("/interrupt")
    comfyui.wait(prompt_id)
    run = comfyui.ended()
    assert (run["status"], run["error"]) == ("cancelled", None)
    assert {id_: stage["status"] for id_, stage in stages_of(run).items()} == {
        "1": "succeeded",
        "2": "cancelled",
    }


def test_what_does_not_validate_is_no_run(comfyui: ComfyUI) -> None:
    before = comfyui.runs()[0]["run_id"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        comfyui.post("/prompt", {"prompt": {"1": node("TestResult")}})
    refused.value.close()
    assert comfyui.runs()[0]["run_id"] == before


def test_nodes_behind_one_that_blocks_are_not_executed_and_the_run_succeeds(comfyui: ComfyUI) -> None:
    workflow = trivial(next(comfyui.seeds))
    workflow["2"] = node("TestBlocks", value=["1", 0])
    assert comfyui.run(workflow) == {}
    run = comfyui.ended()
    assert run["status"] == "succeeded"
    assert {stage["status"] for stage in run["stages"]} == {"succeeded"}


@pytest.mark.parametrize(("value", "executed"), [(0, ["1", "4", "5"]), (1, ["1", "4", "2", "3", "5"])])
def test_a_lazy_node_is_one_stage_and_its_time_stands_while_it_waits(
    comfyui: ComfyUI, value: int, executed: list[str]
) -> None:
    comfyui.post("/free", {"free_memory": True})
    workflow = {
        "1": node("TestNumber", value=value),
        "2": node("TestNumber", value=next(comfyui.seeds)),
        "3": node("TestWait", value=["2", 0], seconds=0.3),
        "4": node("TestLazy", value=["1", 0], other=["3", 0]),
        "5": node("TestResult", value=["4", 0]),
    }
    comfyui.run(workflow)
    run = comfyui.ended()
    cached = [each["id"] for each in run.get("cached_nodes", [])]
    assert [*stages_of(run)] == [id_ for id_ in executed if id_ not in cached]
    assert stages_of(run)["4"]["seconds"] < 0.1


def test_asynchronous_nodes_overlap(comfyui: ComfyUI) -> None:
    workflow = {
        "1": node("TestNumber", value=next(comfyui.seeds)),
        "2": node("TestWaitAsync", value=["1", 0], seconds=0.5),
        "3": node("TestWaitV3", value=["1", 0], seconds=0.5),
        "4": node("TestSum", value=["2", 0], other=["3", 0]),
        "5": node("TestResult", value=["4", 0]),
    }
    comfyui.run(workflow)
    run = comfyui.ended()
    waits = [stages_of(run)[id_] for id_ in ("2", "3")]
    assert [wait["seconds"] for wait in waits] == [pytest.approx(0.5, abs=0.2)] * 2
    assert abs(waits[0]["started_unix_seconds"] - waits[1]["started_unix_seconds"]) < 0.3
    assert run["total_seconds"] < 0.9


def test_nodes_of_the_newer_schema_are_stages_as_any_other(comfyui: ComfyUI) -> None:
    workflow = trivial(next(comfyui.seeds))
    workflow["2"] = node("TestAddV3", value=["1", 0])
    comfyui.run(workflow)
    assert [stage["component"] for stage in comfyui.ended()["stages"]] == [
        "TestNumber",
        "TestAddV3",
        "TestResult",
    ]


def test_the_nodes_of_a_subgraph_of_the_page_have_its_ids_and_titles(comfyui: ComfyUI) -> None:
    workflow = {
        "1": node("TestNumber", value=next(comfyui.seeds)),
        "10:3": {**node("TestWait", value=["1", 0], seconds=0.0), "_meta": {"title": "Wait here"}},
        "5": {**node("TestResult", value=["10:3", 0]), "_meta": {"title": "TestResult"}},
    }
    comfyui.run(workflow)
    nodes = [stage["node"] for stage in comfyui.ended()["stages"]]
    assert nodes == [
        {"id": "1", "class_type": "TestNumber", "title": None},
        {"id": "10:3", "class_type": "TestWait", "title": "Wait here"},
        {"id": "5", "class_type": "TestResult", "title": None},
    ]


def test_each_of_several_prompts_in_a_row_is_a_run_with_the_name_that_its_client_gave(
    comfyui: ComfyUI,
) -> None:
    names = ["first", "second", None]
    ids = []
    for name in names:
        extra_data = {} if name is None else {"crystools_tpu": {"name": name}}
        body = {"prompt": trivial(next(comfyui.seeds)), "extra_data": extra_data}
        ids.append(comfyui.post("/prompt", body)["prompt_id"])
    for prompt_id in ids:
        assert comfyui.wait(prompt_id)["status"]["status_str"] == "success"
    comfyui.ended()
    runs = comfyui.runs()[:3]
    assert [run.get("name") for run in reversed(runs)] == names
    assert {run["status"] for run in runs} == {"succeeded"}
    assert all([*stages_of(run)] == ["1", "2", "3"] for run in runs)


def test_a_page_that_told_its_workflows_name_queues_it_under_that_name(comfyui: ComfyUI) -> None:
    headers = {"Content-Type": "application/json"}
    told = {"client_id": "a page", "id": "a-b-c", "name": "cats"}
    url = comfyui.url + "/api/crystools-tpu/workflow"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(told).encode(), headers)) as answer:
        assert answer.status == 204
    body = {
        "prompt": trivial(next(comfyui.seeds)),
        "client_id": "a page",
        "extra_data": {"extra_pnginfo": {"workflow": {"id": "a-b-c"}}},
    }
    comfyui.wait(comfyui.post("/prompt", body)["prompt_id"])
    assert comfyui.ended()["name"] == "cats"


def test_handlers_that_fail_change_nothing_at_all(comfyui: ComfyUI) -> None:
    workflow = {
        "1": node("TestNumber", value=next(comfyui.seeds)),
        "2": node("TestProgress", value=["1", 0], steps=3, seconds=0.0),
        "3": node("TestExpands", value=["2", 0], times=2, seconds=0.0),
        "4": node("TestResult", value=["3", 0]),
    }
    comfyui.post("/test/break")
    try:
        logged = len(comfyui.log)
        outputs = comfyui.run(workflow)
    finally:
        comfyui.post("/test/mend")
    assert outputs["4"]["text"] == [str(workflow["1"]["inputs"]["value"] + 3)]
    ours = [line for line in comfyui.log[logged:].splitlines() if "broken by a test" in line]
    assert len(ours) == 1
    # What it did not say in that prompt is said by the next one.
    comfyui.run(trivial(next(comfyui.seeds)))
    assert comfyui.ended()["status"] == "succeeded"
    assert comfyui.runs()[1]["error"] == "ComfyUI did not say how it ended: its log may tell why"


def test_each_of_several_users_has_runs(tmp_path: Path) -> None:
    assert COMFYUI_DIR is not None
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "XLA_FLAGS")}
    with running_comfyui(
        tmp_path,
        PACKS,
        checkout=Path(COMFYUI_DIR),
        python=os.environ.get("COMFYUI_PYTHON", sys.executable),
        arguments=["--multi-user"],
        environ={**environment, "CRYSTOOLS_TPU_DATA_DIR": str(tmp_path / "data")},
    ) as started:
        comfyui = ComfyUI(started.url, started.log_file, tmp_path, started.process_id)
        for client in ("one", "another"):
            body = {"prompt": trivial(next(comfyui.seeds)), "client_id": client}
            comfyui.wait(comfyui.post("/prompt", body)["prompt_id"])
            comfyui.ended()
        assert [run["status"] for run in comfyui.runs()] == ["succeeded", "succeeded"]


async def test_where_comfyuis_setting_asks_for_previews_the_page_sees_the_latents_as_ksamplers(
    tmp_path: Path,
) -> None:
    """With a ComfyUI of its own, for the setting is an option of its command."""
    from crystools_pipelines.tiny import write_tiny_checkpoint

    assert COMFYUI_DIR is not None
    checkpoint = write_tiny_checkpoint(
        "wan2.1-t2v", tmp_path / "models" / "diffusers" / tiny_name("wan2.1-t2v")
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "XLA_FLAGS")}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")}
    with running_comfyui(
        tmp_path,
        {CLONE: ROOT},
        checkout=Path(COMFYUI_DIR),
        python=os.environ.get("COMFYUI_PYTHON", sys.executable),
        arguments=["--preview-method", "latent2rgb"],
        environ=environment,
    ) as started:
        comfyui = ComfyUI(started.url, started.log_file, checkpoint, started.process_id)
        whole = comfyui.template("wan2.1-t2v", num_inference_steps=20)
        kinds = "Wan21TextEncoder", "Wan21TPUSampler"
        prompt = {node: each for node, each in whole.items() if each["class_type"] in kinds}
        (sampler,) = (node for node, each in prompt.items() if each["class_type"] == kinds[1])
        prompt["report"] = {"class_type": "TPUTimingReport", "inputs": {"timing_1": [sampler, 2]}}
        seen: list[tuple[dict[str, Any], bytes]] = []
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{comfyui.url.replace('http', 'ws')}/ws?clientId=page") as page,
        ):
            await page.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            body = {"prompt": prompt, "client_id": "page"}
            async with session.post(f"{comfyui.url}/prompt", json=body) as answer:
                assert answer.status == 200
            while True:
                message = await page.receive(timeout=PATIENCE_SECONDS)
                if message.type is aiohttp.WSMsgType.BINARY:
                    kind, length = (int.from_bytes(message.data[at : at + 4]) for at in (0, 4))
                    if kind == PREVIEW_IMAGE_WITH_METADATA:
                        about, image = message.data[8 : 8 + length], message.data[8 + length :]
                        seen.append((json.loads(about), image))
                    continue
                told = json.loads(message.data)["type"]
                assert told != "execution_error", message.data
                if told == "execution_success":
                    break
        stages = comfyui.ended()["stages"]
    (denoise,) = (stage for stage in stages if stage["name"] == "denoise")
    assert 1 <= len(seen) <= denoise["seconds"] / 0.5
    for about, image in seen:
        assert (about["node_id"], about["image_type"]) == (sampler, "image/jpeg")
        with Image.open(io.BytesIO(image)) as picture:
            assert max(picture.size) == 512
    assert denoise["recompiles"] == 0
    assert "could not be previewed" not in comfyui.log


def test_one_page_that_was_open_before_shows_a_comfyui_a_command_and_a_script_from_begin_to_end(
    comfyui: ComfyUI, tmp_path: Path
) -> None:
    """In a real browser, without a reload; the script's run stays when its process has gone."""
    from playwright.sync_api import expect, sync_playwright

    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["CRYSTOOLS_TPU_DATA_DIR"] = str(comfyui.log_file.parent / "data")
    program = [sys.executable, "-m", "crystools_tpu"]
    script = tmp_path / "night.py"
    script.write_text(SCRIPT)
    command = [
        *(*program, "generate", "wan2.1-t2v", "--checkpoint", str(comfyui.checkpoint)),
        *("--prompt", "a paper boat", "--height", "32", "--width", "32", "--frames", "5"),
        *("--steps", "30", "--out", str(tmp_path / "boat.mp4")),
    ]
    with contextlib.ExitStack() as stack:

        def started(arguments: list[str], **pipes: Any) -> subprocess.Popen[str]:
            process = subprocess.Popen(arguments, env=environment, cwd=tmp_path, text=True, **pipes)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        served = started([*program, "serve", "--port", "0"], stdout=subprocess.PIPE)
        assert served.stdout is not None
        url = served.stdout.readline().split()[-1]
        playwright = stack.enter_context(sync_playwright())
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 1400})
        page.goto(url)
        page.evaluate("window.opened = true")
        live = page.locator("crystools-current crystools-run")
        expect(page.locator("crystools-header")).to_contain_text("Live", timeout=60_000)

        generating = started(command, stderr=subprocess.PIPE)
        scripting = started([sys.executable, str(script)])
        workflow = {
            "1": node("TestNumber", value=next(comfyui.seeds)),
            "2": node("TestProgress", value=["1", 0], steps=40, seconds=0.5),
            "3": node("TestResult", value=["2", 0]),
        }
        body = {"prompt": workflow, "extra_data": {"crystools_tpu": {"name": "boats"}}}
        prompt_id = comfyui.post("/prompt", body)["prompt_id"]
        for name in ("boats", "my-pipeline", "wan2.1-t2v"):
            expect(live.filter(has_text=name)).to_have_count(1, timeout=90_000)
        expect(live.filter(has_text="my-pipeline")).to_contain_text("night.py")
        expect(live.filter(has_text="boats")).to_contain_text("ComfyUI")
        page.screenshot(path=tmp_path / "three-processes.png", full_page=True)
        comfyui.wait(prompt_id)
        assert scripting.wait(PATIENCE_SECONDS) == 0
        assert generating.wait(PATIENCE_SECONDS) == 0
        assert generating.stderr is not None
        assert f"Watch it at {url}" in generating.stderr.read()
        runs = page.locator("crystools-current crystools-run, crystools-runs li")
        for name in ("boats", "my-pipeline", "wan2.1-t2v"):
            expect(runs.filter(has_text=name).first).to_contain_text("Succeeded", timeout=60_000)
        page.screenshot(path=tmp_path / "three-ended.png", full_page=True)
        assert page.evaluate("window.opened") is True
