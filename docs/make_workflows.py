"""Writes `example_workflows/`: for each thing to do one workflow of full size, and one for a tiny checkpoint.

A file's name is the title that ComfyUI's list of templates shows, and what its search looks through.
docs/make_template_pictures.py makes the pictures beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS
from crystools_pipelines.requests.fields import Role, names_of
from crystools_pipelines.requests.presets import preset_named
from crystools_pipelines.tiny.on_demand import tiny_lora_name, tiny_name
from crystools_pipelines.wan.wan22_i2v.request import Wan22I2VRequest
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / "example_workflows"

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
FEW_STEPS: Final = "lightx2v-4step"
EXPERTS: Final = {None: "both", "high": "high noise", "low": "low noise"}
FULL_NOTE: Final = """# Press Run

The first run downloads the model from the hub, to `HF_HOME`. If you have it: put its folder into \
`models/diffusers`, and its name, or the path of any folder, into `model_id` of {nodes}.

Only to try it, without a TPU or a download: open the template **{tiny}**.

Each node is timed: see *Where the time went*, the bar at the top, and `/crystools-tpu/`.
"""
LORA_NOTE: Final = """
Put {files} of {repository} on the hub into `models/loras`.
"""
TINY_NOTE: Final = """# Press Run

A tiny model is made for you in the first run. Its weights are random: what it makes are coloured shapes, \
not your prompt. It takes about a minute on a CPU.

Then open the template **{full}** for the real model.

Each node is timed: see *Where the time went*, the bar at the top, and `/crystools-tpu/`.
"""


@dataclass(frozen=True)
class Node:
    """A node on the canvas: its place and size in pixels."""

    type: str
    place: tuple[int, int]
    size: tuple[int, int]
    inputs: Inputs = field(default_factory=dict)
    title: str | None = None
    is_collapsed: bool = False


Nodes: TypeAlias = dict[str, Node]

# Four columns, and the report below those in the middle; between them is room for the groups' frames. Nodes
# grow while they are executed, by the text of how they get on. ComfyUI opens a graph so that it fits into the
# window, and below about 57% leaves out all text: one of this size opens above that at 1,280 x 720 pixels.
LEFT: Final = 0
PROMPTS: Final = 360
SAMPLING: Final = 720
RESULT: Final = 1080
WIDTH: Final = 320
TALL: Final = (WIDTH, 460)
SHORT: Final = (WIDTH, 180)
WIDE: Final = (SAMPLING - PROMPTS + WIDTH, 360)
LOWER: Final = 560
MARGIN: Final = 15
TITLE: Final = 30
GROUP_TITLE: Final = 40
GROUPS: Final = {
    "The picture to start with": ("image", "start"),
    "The LoRA": ("lora 0", "lora 1"),
    "What to show": ("encode",),
    "On the TPU": ("sample", "whole"),
    "The result": ("decode", "create", "save"),
    "Where the time went": ("report",),
}


def slots(type_: str) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """Types of a node's inputs, in order, and of its outputs, and the inputs' defaults."""
    if type_ in COMFYUIS:
        return *COMFYUIS[type_], {}
    node = NODE_CLASS_MAPPINGS[type_]
    types = node.INPUT_TYPES()
    declared = {**types["required"], **types.get("optional", {})}
    outputs = dict(zip(node.RETURN_NAMES, map(str, node.RETURN_TYPES), strict=True))
    defaults = {name: about["default"] for name, (_, about) in declared.items() if "default" in about}
    kinds = {name: "COMBO" if isinstance(kind, list) else kind for name, (kind, _) in declared.items()}
    first = {name: kind[0] for name, (kind, _) in declared.items() if isinstance(kind, list)}
    return kinds, outputs, {**first, **defaults}


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
        "groups": groups(nodes),
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def groups(nodes: Nodes) -> list[dict[str, Any]]:
    """The frames around the nodes of each step, with its title."""
    framed = {title: [nodes[name] for name in names if name in nodes] for title, names in GROUPS.items()}
    look = {"color": "#3f789e", "font_size": 24, "flags": {}}
    return [
        {"id": number, "title": title, "bounding": _frame(inside), **look}
        for number, (title, inside) in enumerate(framed.items(), 1)
        if inside
    ]


def _frame(inside: Sequence[Node]) -> list[int]:
    """Left, top, width and height of what is around these nodes with their titles."""
    left, top = (min(node.place[axis] for node in inside) - MARGIN for axis in (0, 1))
    right, bottom = (max(node.place[axis] + node.size[axis] for node in inside) + MARGIN for axis in (0, 1))
    top -= TITLE + GROUP_TITLE - MARGIN
    return [left, top, right - left, bottom - top]


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
        "flags": {"collapsed": True} if node.is_collapsed else {},
        "order": number - 1,
        "mode": 0,
        **({} if node.title is None else {"title": node.title}),
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


def video_end(frames: str, prefix: str, place: tuple[int, int] = (RESULT, 230)) -> Nodes:
    """A decoder's frames to a file."""
    left, top = place
    given = {"images": (frames, 0), "fps": (frames, 1)}
    file = {"filename_prefix": prefix, "format": "auto", "codec": "auto"}
    return {
        "create": Node("CreateVideo", place, (WIDTH, 80), given, is_collapsed=True),
        "save": Node("SaveVideo", (left, top + 50), (WIDTH, 420), {"video": ("create", 0), **file}),
    }


def report(*timings: Link, place: tuple[int, int] = (PROMPTS, LOWER)) -> Nodes:
    """Where the time of all of them went."""
    inputs = {f"timing_{number}": timing for number, timing in enumerate(timings, 1)}
    return {"report": Node("TPUTimingReport", place, WIDE, inputs)}


def cogvideox(model: Inputs, shape: Inputs, prefix: str) -> Nodes:
    """Text to video."""
    prompts = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    embeddings = {"embeddings": ("encode", 0)}
    return {
        "encode": Node("CogVideoXTextEncoder", (PROMPTS, 0), TALL, {**prompts, **model}),
        "sample": Node("CogVideoXTPUSampler", (SAMPLING, 0), TALL, {**embeddings, **shape}),
        "decode": Node("CogVideoXTPUVAEDecoder", (RESULT, 0), SHORT, {"latents": ("sample", 0)}),
        **video_end("decode", prefix),
        **report(("encode", 1), ("sample", 2), ("decode", 2)),
    }


def wan_t2v(nodes: str, model: Inputs, shape: Inputs, prefix: str) -> Nodes:
    """Text to video, by the nodes whose ids begin so."""
    prompts = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    embeddings = {"prompt_embeds": ("encode", 0), "negative_prompt_embeds": ("encode", 1)}
    latents = {"latents": ("sample", 0)}
    return {
        "encode": Node(f"{nodes}TextEncoder", (PROMPTS, 0), TALL, {**prompts, **model}),
        "sample": Node(f"{nodes}TPUSampler", (SAMPLING, 0), TALL, {**embeddings, **shape, **model}),
        "decode": Node(f"{nodes}TPUVAEDecoder", (RESULT, 0), SHORT, {**latents, **model}),
        **video_end("decode", prefix),
        **report(("encode", 2), ("sample", 2), ("decode", 2)),
    }


def wan_few_steps(nodes: str, id_: str, model: Inputs, shape: Inputs, prefix: str) -> Nodes:
    """Text to video in the few steps of distilled LoRAs, which are chained; without guidance."""
    settings = {**preset_named(id_, FEW_STEPS).settings}
    loras: Nodes = {}
    for number, lora in enumerate(settings.pop("loras")):
        file = tiny_lora_name(id_) if model else lora.location.rpartition("/")[2]
        chained = {"lora": (f"lora {number - 1}", 0)} if number else {}
        inputs = {"lora_name": file, "expert": EXPERTS[lora.expert], **chained}
        loras[f"lora {number}"] = Node("TPULora", (LEFT, 340 + 200 * number), (WIDTH, 140), inputs)
    settings["sigmas"] = ", ".join(f"{sigma:g}" for sigma in settings["sigmas"])
    return {**wan_t2v(nodes, model, {**shape, **settings, "lora": ([*loras][-1], 0)}, prefix), **loras}


def loras_note(id_: str) -> str:
    """Where the LoRAs of a model's preset are to be had."""
    places = [lora.location.rpartition("/") for lora in preset_named(id_, FEW_STEPS).settings["loras"]]
    files = " and ".join(f"`{file}`" for _, _, file in places)
    return LORA_NOTE.format(files=files, repository=places[0][0])


def wan21_whole(model: Inputs, shape: Inputs, prefix: str) -> Nodes:
    """Text to video by one node."""
    asked = {"prompt": PROMPT, "negative_prompt": NEGATIVE, **shape, **model}
    return {
        "whole": Node("Wan21TPUPipeline", (PROMPTS, 0), (WIDTH, 620), asked),
        **video_end("whole", prefix, (SAMPLING, 0)),
        **report(("whole", 2), place=(SAMPLING, LOWER)),
    }


def wan22_i2v(model: Inputs, shape: Inputs, prefix: str) -> Nodes:
    """Image and text to video."""
    prompts = {"prompt": "The camera moves in slowly", "negative_prompt": NEGATIVE}
    size = {name: shape[name] for name in names_of(Wan22I2VRequest, Role.SHAPE) if name in shape}
    others = {name: value for name, value in shape.items() if name not in size}
    image, latents = {"image": ("image", 0)}, {"latents": ("sample", 0)}
    handed = {
        "prompt_embeds": ("encode", 0),
        "negative_prompt_embeds": ("encode", 1),
        "condition": ("start", 0),
        "latent_info": ("start", 1),
    }
    return {
        "image": Node("LoadImage", (LEFT, 340), (WIDTH, 320), {"image": "example.png", "upload": "image"}),
        "encode": Node("Wan22I2VTextEncoder", (PROMPTS, 0), TALL, {**prompts, **model}),
        "start": Node("Wan22I2VImageEncoder", (LEFT, 700), (WIDTH, 220), {**image, **size, **model}),
        "sample": Node("Wan22I2VTPUSampler", (SAMPLING, 0), TALL, {**handed, **others, **model}),
        "decode": Node("Wan22I2VTPUVAEDecoder", (RESULT, 0), SHORT, {**latents, **model}),
        **video_end("decode", prefix),
        **report(("encode", 2), ("start", 2), ("sample", 2), ("decode", 2)),
    }


def flux2(model: Inputs, shape: Inputs, prefix: str) -> Nodes:
    """Text to image."""
    size = {name: shape[name] for name in names_of(Flux2Request, Role.SHAPE) if name in shape}
    decoded = {"latents": ("sample", 0), **size, **model}
    return {
        "encode": Node("FluxTPUTextEncoder", (PROMPTS, 0), TALL, {"prompt": PROMPT, **model}),
        "sample": Node(
            "FluxTPUSampler", (SAMPLING, 0), TALL, {"prompt_embeds": ("encode", 0), **shape, **model}
        ),
        "decode": Node("FluxTPUVAEDecoder", (RESULT, 0), SHORT, decoded),
        "save": Node(
            "SaveImage", (RESULT, 240), (WIDTH, 420), {"images": ("decode", 0), "filename_prefix": prefix}
        ),
        **report(("encode", 1), ("sample", 1), ("decode", 1)),
    }


SMALL: Final = {"height": 256, "width": 256, "num_inference_steps": 4}
SMALL_VIDEO: Final = {**SMALL, "num_frames": 17}


@dataclass(frozen=True)
class Template:
    """What is made by a model: its titles, which are the files' names, and the nodes."""

    model: str
    makes: str
    size: str
    build: Callable[[Inputs, Inputs, str], Nodes]
    with_model_id: str = "three nodes"
    full_note: str = ""

    @property
    def full(self) -> str:
        """The title of the one for the published model."""
        return f"{self.makes}, TPU {self.size}"

    @property
    def tiny(self) -> str:
        """The title of the one for the tiny checkpoint."""
        return f"{self.makes}, TPU tiny"


TEMPLATES: Final = {
    "cogvideox-t2v": Template(
        "cogvideox-t2v", "CogVideoX text to video", "720p", cogvideox, "the text encoder"
    ),
    "wan2.1-t2v": Template("wan2.1-t2v", "Wan2.1 text to video", "720p", partial(wan_t2v, "Wan21")),
    "wan2.1-lora": Template(
        "wan2.1-t2v",
        "Wan2.1 4 steps, LoRA",
        "720p",
        partial(wan_few_steps, "Wan21", "wan2.1-t2v"),
        full_note=loras_note("wan2.1-t2v"),
    ),
    "wan2.1-whole": Template("wan2.1-t2v", "Wan2.1 in one node", "720p", wan21_whole, "the node"),
    "wan2.2-t2v": Template("wan2.2-t2v", "Wan2.2 text to video", "720p", partial(wan_t2v, "Wan22T2V")),
    "wan2.2-lora": Template(
        "wan2.2-t2v",
        "Wan2.2 4 steps, LoRA",
        "720p",
        partial(wan_few_steps, "Wan22T2V", "wan2.2-t2v"),
        full_note=loras_note("wan2.2-t2v"),
    ),
    "wan2.2-i2v": Template("wan2.2-i2v", "Wan2.2 image to video", "720p", wan22_i2v, "four nodes"),
    "flux.2": Template("flux.2", "FLUX.2 text to image", "1024", flux2),
}
"""By a name that is the model's id, if it is the one that makes all that the model does."""


def workflows() -> dict[str, dict[str, Any]]:
    """All of them, by title."""
    made = {}
    for template in TEMPLATES.values():
        words = {"full": template.full, "tiny": template.tiny, "nodes": template.with_model_id}
        tiny = tiny_name(template.model)
        small = SMALL_VIDEO if MODELS[template.model].makes == "video" else SMALL
        full_size = template.build({}, {}, f"crystools-tpu/{template.model}")
        made[template.full] = _with_note(full_size, FULL_NOTE.format(**words) + template.full_note)
        tiny_size = template.build({"model_id": tiny}, small, f"crystools-tpu/{tiny}")
        made[template.tiny] = _with_note(tiny_size, TINY_NOTE.format(**words))
    return made


def _with_note(nodes: Nodes, text: str) -> dict[str, Any]:
    return workflow(
        {**nodes, "note": Node("MarkdownNote", (LEFT, 0), (WIDTH, 250), {"text": text}, "Start here")}
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for title, saved in workflows().items():
        (FOLDER / f"{title}.json").write_text(json.dumps(saved, indent=1) + "\n")
