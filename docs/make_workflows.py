"""Writes `example_workflows/`: for each model one workflow of full size, and one for its tiny checkpoint.

With the address of a running ComfyUI, which has the tiny checkpoints where docs/nodes.md puts them, it takes
a picture of each in its page, too, of the tiny ones after a run; or of those of some models alone:

    python docs/make_workflows.py [http://127.0.0.1:8188 [MODEL ...]]
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS
from crystools_pipelines.requests.fields import Role, names_of
from crystools_pipelines.wan.wan22_i2v.request import Wan22I2VRequest
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / "example_workflows"
CHROMIUM: Final = "/usr/bin/chromium"
SETTLE_MILLISECONDS: Final = 2500
CANVAS: Final = {"x": 60, "y": 50, "width": 1536, "height": 840}
REPORTED: Final = """() => document.querySelector("textarea[aria-label='Where the time went']")?.value"""
SHOW_ALL: Final = """() => {
  const { app } = window;
  const { canvas, graph } = app;
  app.extensionManager.setting.set("Comfy.Minimap.Visible", false);
  document.querySelectorAll(".p-toast, .p-dialog-mask").forEach(element => element.remove());
  const boxes = graph.nodes.map(({ pos: [x, y], size: [w, h] }) => [x, y, x + w, y + h]);
  const [left, top] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])) - 60);
  const [right, bottom] = [2, 3].map(i => Math.max(...boxes.map(box => box[i])) + 60);
  canvas.ds.scale = Math.min(1400 / (right - left), 800 / (bottom - top));
  canvas.ds.offset[0] = 80 / canvas.ds.scale - left;
  canvas.ds.offset[1] = 60 / canvas.ds.scale - top;
  canvas.setDirty(true, true);
}"""

# An input of a node: a widget's value, or the output (by number) of the node of that name.
Link: TypeAlias = tuple[str, int]
Inputs: TypeAlias = Mapping[str, Any]

# ComfyUI's own nodes: their inputs' types in order, and their outputs.
COMFYUIS: Final[dict[str, tuple[dict[str, str], dict[str, str]]]] = {
    "LoadImage": ({"image": "COMBO", "upload": "IMAGEUPLOAD"}, {"IMAGE": "IMAGE", "MASK": "MASK"}),
    "CreateVideo": ({"images": "IMAGE", "fps": "FLOAT", "audio": "AUDIO"}, {"VIDEO": "VIDEO"}),
    "SaveVideo": (
        {"video": "VIDEO", "filename_prefix": "STRING", "format": "COMBO", "codec": "COMBO"},
        {},
    ),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": "STRING"}, {}),
    "MarkdownNote": ({"text": "STRING"}, {}),
}
WIDGETS: Final = ("INT", "FLOAT", "STRING", "COMBO", "IMAGEUPLOAD")

PROMPT: Final = "A red ball rolls over a green meadow, morning light, camera at grass height"
NEGATIVE: Final = "blurred, overexposed, static, text"
TINY: Final = {
    "cogvideox-t2v": "tiny-cogvideox",
    "wan2.1-t2v": "tiny-wan2.1",
    "wan2.2-t2v": "tiny-wan2.2-t2v",
    "wan2.2-i2v": "tiny-wan2.2",
    "flux.2": "tiny-flux.2",
}
FULL_NOTE: Final = """**{title}**

The weights come from the hub in the first run, to `HF_HOME`; `model_id` may be a folder, too.

Each node is a run with a time for every stage: see the report here, the menubar, and `/crystools-tpu/`.
"""
TINY_NOTE: Final = """**{title}: the tiny checkpoint**

Random weights, for a look at how it works: seconds on a CPU. Make it once, in ComfyUI's folder:

```
crystools-tpu tiny-checkpoint {model} models/diffusers/{tiny}
```

docs/nodes.md says how without the command. Then run.
"""


@dataclass(frozen=True)
class Node:
    """A node on the canvas: its place and size in pixels."""

    type: str
    place: tuple[int, int]
    size: tuple[int, int]
    inputs: Inputs = field(default_factory=dict)


Nodes: TypeAlias = dict[str, Node]


def slots(type_: str) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """Types of a node's inputs, in order, and of its outputs, and the inputs' defaults."""
    if type_ in COMFYUIS:
        return *COMFYUIS[type_], {}
    node = NODE_CLASS_MAPPINGS[type_]
    types = node.INPUT_TYPES()
    declared = {**types["required"], **types.get("optional", {})}
    outputs = dict(zip(node.RETURN_NAMES, map(str, node.RETURN_TYPES), strict=True))
    defaults = {name: about["default"] for name, (_, about) in declared.items() if "default" in about}
    return {name: type_ for name, (type_, _) in declared.items()}, outputs, defaults


def workflow(nodes: Nodes) -> dict[str, Any]:
    """As ComfyUI's page saves it."""
    numbers = {name: number for number, name in enumerate(nodes, 1)}
    links: list[list[Any]] = []
    for name, node in nodes.items():
        sockets = [input_ for input_, type_ in slots(node.type)[0].items() if _is_socket(node, input_, type_)]
        for slot, input_ in enumerate(sockets):
            if isinstance(link := node.inputs.get(input_), tuple):
                source, output = link
                type_ = list(slots(nodes[source].type)[1].values())[output]
                links.append([len(links) + 1, numbers[source], output, numbers[name], slot, type_])
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": [_saved(numbers[name], node, links) for name, node in nodes.items()],
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _is_socket(node: Node, input_: str, type_: str) -> bool:
    return type_ not in WIDGETS or isinstance(node.inputs.get(input_), tuple)


def _saved(number: int, node: Node, links: list[list[Any]]) -> dict[str, Any]:
    inputs, outputs, defaults = slots(node.type)
    sockets = [(input_, type_) for input_, type_ in inputs.items() if _is_socket(node, input_, type_)]
    arriving = {slot: link for link, _, _, to, slot, _ in links if to == number}
    values: list[Any] = []
    for input_, type_ in inputs.items():
        if type_ in WIDGETS:
            value = node.inputs.get(input_, defaults.get(input_))
            values.append(defaults.get(input_, 16.0) if isinstance(value, tuple) else value)
            values += ["fixed"] if input_ == "seed" else []
    return {
        "id": number,
        "type": node.type,
        "pos": list(node.place),
        "size": list(node.size),
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [
            {
                "name": input_,
                "type": type_,
                "link": arriving.get(slot),
                **({"widget": {"name": input_}} if type_ in WIDGETS else {}),
            }
            for slot, (input_, type_) in enumerate(sockets)
        ],
        "outputs": [
            {
                "name": output,
                "type": type_,
                "links": [link for link, source, slot, *_ in links if (source, slot) == (number, place)],
            }
            for place, (output, type_) in enumerate(outputs.items())
        ],
        "properties": {"Node name for S&R": node.type},
        "widgets_values": values,
    }


def video_end(frames: str, prefix: str) -> Nodes:
    """A decoder's frames to a file."""
    return {
        "create": Node("CreateVideo", (1240, 0), (270, 80), {"images": (frames, 0), "fps": (frames, 1)}),
        "save": Node(
            "SaveVideo",
            (1240, 130),
            (400, 400),
            {"video": ("create", 0), "filename_prefix": prefix, "format": "auto", "codec": "auto"},
        ),
    }


def report(*timings: Link) -> Nodes:
    """Where the time of all of them went."""
    inputs = {f"timing_{number}": timing for number, timing in enumerate(timings, 1)}
    return {"report": Node("TPUTimingReport", (420, 480), (780, 580), inputs)}


def cogvideox(model: Inputs, shape: Inputs, prefix: str) -> Nodes:
    """Text to video."""
    prompts = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    embeddings = {"embeddings": ("encode", 0)}
    return {
        "encode": Node("CogVideoXTextEncoder", (0, 0), (380, 300), {**prompts, **model}),
        "sample": Node("CogVideoXTPUSampler", (420, 0), (380, 300), {**embeddings, **shape}),
        "decode": Node("CogVideoXTPUVAEDecoder", (840, 0), (360, 130), {"latents": ("sample", 0)}),
        **video_end("decode", prefix),
        **report(("encode", 1), ("sample", 2), ("decode", 2)),
    }


def wan_t2v(nodes: str, model: Inputs, shape: Inputs, prefix: str) -> Nodes:
    """Text to video, by the nodes whose ids begin so."""
    prompts = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    embeddings = {"prompt_embeds": ("encode", 0), "negative_prompt_embeds": ("encode", 1)}
    return {
        "encode": Node(f"{nodes}TextEncoder", (0, 0), (380, 300), {**prompts, **model}),
        "sample": Node(f"{nodes}TPUSampler", (420, 0), (380, 380), {**embeddings, **shape, **model}),
        "decode": Node(f"{nodes}TPUVAEDecoder", (840, 0), (360, 150), {"latents": ("sample", 0), **model}),
        **video_end("decode", prefix),
        **report(("encode", 2), ("sample", 2), ("decode", 2)),
    }


def wan22_i2v(model: Inputs, shape: Inputs, prefix: str) -> Nodes:
    """Image and text to video."""
    prompts = {"prompt": "The camera moves in slowly", "negative_prompt": NEGATIVE}
    size = {name: shape[name] for name in names_of(Wan22I2VRequest, Role.SHAPE) if name in shape}
    others = {name: value for name, value in shape.items() if name not in size}
    handed = {
        "prompt_embeds": ("encode", 0),
        "negative_prompt_embeds": ("encode", 1),
        "condition": ("start", 0),
        "latent_info": ("start", 1),
    }
    return {
        "image": Node("LoadImage", (-360, 340), (320, 320), {"image": "example.png", "upload": "image"}),
        "encode": Node("Wan22I2VTextEncoder", (0, 0), (380, 300), {**prompts, **model}),
        "start": Node("Wan22I2VImageEncoder", (0, 350), (380, 200), {"image": ("image", 0), **size, **model}),
        "sample": Node("Wan22I2VTPUSampler", (420, 0), (380, 380), {**handed, **others, **model}),
        "decode": Node("Wan22I2VTPUVAEDecoder", (840, 0), (360, 150), {"latents": ("sample", 0), **model}),
        **video_end("decode", prefix),
        **report(("encode", 2), ("start", 2), ("sample", 2), ("decode", 2)),
    }


def flux2(model: Inputs, shape: Inputs, prefix: str) -> Nodes:
    """Text to image."""
    size = {name: shape[name] for name in names_of(Flux2Request, Role.SHAPE) if name in shape}
    decoded = {"latents": ("sample", 0), **size, **model}
    return {
        "encode": Node("FluxTPUTextEncoder", (0, 0), (380, 200), {"prompt": PROMPT, **model}),
        "sample": Node(
            "FluxTPUSampler", (420, 0), (380, 300), {"prompt_embeds": ("encode", 0), **shape, **model}
        ),
        "decode": Node("FluxTPUVAEDecoder", (840, 0), (360, 180), decoded),
        "save": Node(
            "SaveImage", (1240, 0), (400, 440), {"images": ("decode", 0), "filename_prefix": prefix}
        ),
        **report(("encode", 1), ("sample", 1), ("decode", 1)),
    }


SMALL: Final = {"height": 256, "width": 256, "num_inference_steps": 4}
SMALL_VIDEO: Final = {**SMALL, "num_frames": 17}
TEMPLATES: Final = {
    "cogvideox-t2v": ("CogVideoX1.5 text to video", cogvideox),
    "wan2.1-t2v": ("Wan2.1 text to video", partial(wan_t2v, "Wan21")),
    "wan2.2-t2v": ("Wan2.2 text to video", partial(wan_t2v, "Wan22T2V")),
    "wan2.2-i2v": ("Wan2.2 image to video", wan22_i2v),
    "flux.2": ("FLUX.2 text to image", flux2),
}


def workflows() -> dict[str, dict[str, Any]]:
    """All of them, by file name."""
    made = {}
    for model, about in MODELS.items():
        (title, build), tiny = TEMPLATES[model], TINY[model]
        words = {"title": title, "model": model, "tiny": tiny}
        height = about.request_class().of_any_content().height
        small, size = (SMALL_VIDEO, f"{height}p") if about.makes == "video" else (SMALL, height)
        full_size = build({}, {}, f"crystools-tpu/{model}")
        made[f"{model}-{size}.json"] = _with_note(full_size, FULL_NOTE.format(**words))
        tiny_size = build({"model_id": tiny}, small, f"crystools-tpu/{tiny}")
        made[f"{model}-tiny.json"] = _with_note(tiny_size, TINY_NOTE.format(**words))
    return made


def _with_note(nodes: Nodes, text: str) -> dict[str, Any]:
    return workflow({**nodes, "note": Node("MarkdownNote", (-360, 0), (320, 300), {"text": text})})


def take_pictures(url: str, models: Sequence[str]) -> None:
    """Of each workflow of these models in the page of a running ComfyUI."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.goto(url)
        page.wait_for_function("() => window.app?.graph && window.app?.extensionManager", timeout=120_000)
        page.wait_for_timeout(SETTLE_MILLISECONDS)
        for file in sorted(file for model in models for file in FOLDER.glob(f"{model}-*.json")):
            page.evaluate("saved => window.app.loadGraphData(saved)", json.loads(file.read_text()))
            page.evaluate(SHOW_ALL)
            if file.stem.endswith("-tiny"):
                page.evaluate("() => window.app.queuePrompt(0)")
                page.wait_for_function(REPORTED, timeout=300_000)
            page.wait_for_timeout(SETTLE_MILLISECONDS)
            picture = Image.open(io.BytesIO(page.screenshot(clip=CANVAS)))
            picture.convert("RGB").resize((1024, 560)).save(file.with_suffix(".jpg"), quality=85)
        browser.close()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, saved in workflows().items():
        (FOLDER / file_name).write_text(json.dumps(saved, indent=1) + "\n")
    if len(sys.argv) > 1:
        take_pictures(sys.argv[1], sys.argv[2:] or [*MODELS])
