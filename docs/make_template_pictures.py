"""Makes the templates' pictures: what the tiny checkpoint of each model really makes, and a label saying so.

    python docs/make_template_pictures.py [NAME ...]

Needs the extras `pipelines` and `dev`; takes a few minutes for all. Nobody needs the published models for it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from make_workflows import FEW_STEPS, FOLDER, TEMPLATES, Template
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from crystools_pipelines.models import MODELS
from crystools_pipelines.requests.lora import Lora
from crystools_pipelines.requests.presets import preset_named
from crystools_pipelines.run import generate
from crystools_pipelines.tiny import write_tiny_checkpoint
from crystools_pipelines.tiny.lora import write_tiny_lora

SIDE: Final = 512
LABEL: Final = "made by a tiny random model"
BAND: Final = 150
MARGIN: Final = 22
WHITE: Final = (255, 255, 255)
GREY: Final = (205, 210, 215)
TILE: Final = (8, 20, 30)

# A frame to a template: by seed and prompt they differ as far as random weights go.
OF_FULL: Final = (11, "a blue whale in the night sea")
OF_TINY: Final = (7, "a red ball rolls over a green meadow")
OF_ONE_NODE: Final = ((23, "a lighthouse in the evening"), (5, "a yellow boat on a lake"))


def main(names: Sequence[str]) -> None:
    """Makes the pictures of these templates, the two of a name after each other: they share programs."""
    for name in names:
        template = TEMPLATES[name]
        contents = OF_ONE_NODE if name == "wan2.1-whole" else (OF_FULL, OF_TINY)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write_tiny_checkpoint(template.model, Path(folder) / "checkpoint")
            asked: dict[str, Any] = {}
            if name.endswith("-lora"):
                lora = write_tiny_lora(template.model, Path(folder) / "lora.safetensors")
                asked = {**preset_named(template.model, FEW_STEPS).settings, "loras": (Lora(str(lora)),)}
            full, tiny = (frame(template.model, checkpoint, *content, **asked) for content in contents)
        is_image = MODELS[template.model].makes == "image"
        shape = (300, 300) if is_image else (432, 243)
        save(labelled(inset(full, shape), template, template.size), template.full)
        save(labelled(filled(tiny), template, "tiny"), template.tiny)


def frame(model: str, checkpoint: Path, seed: int, prompt: str, **asked: Any) -> Image.Image:
    """The middle one of a short video, or an image."""
    asked = {"height": 256, "width": 256, "num_inference_steps": 4, **asked}
    if MODELS[model].makes == "video":
        asked["num_frames"] = 9
    if model == "wan2.2-i2v":
        asked["image"] = first_picture()
    request = MODELS[model].request_class()(prompt=prompt, seed=seed, **asked)
    frames = generate(request, checkpoint=checkpoint).frames
    return Image.fromarray((frames[len(frames) // 2] * 255).round().astype(np.uint8))


def first_picture() -> np.ndarray[Any, np.dtype[np.float32]]:
    """A sunset: what an image-to-video model starts with."""
    down, across = np.mgrid[0:256, 0:256].astype(np.float32) / 255
    sun = (down - 0.55) ** 2 + (across - 0.5) ** 2 < 0.03
    sky = np.stack([0.95 - 0.4 * down, 0.35 + 0.35 * down, 0.55 - 0.3 * down], axis=-1)
    return np.where(sun[..., None], np.asarray([1, 0.9, 0.55], np.float32), sky).astype(np.float32)


def filled(frame: Image.Image) -> Image.Image:
    """The frame in the whole picture."""
    return frame.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def inset(frame: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """The frame in the shape of what the published model makes, over a blurred one of itself."""
    width, height = shape
    picture = filled(frame).filter(ImageFilter.GaussianBlur(24)).point(lambda value: value // 3)
    rows = round(frame.width * height / width)
    top = (frame.height - rows) // 2
    part = frame.crop((0, top, frame.width, top + rows)).resize(shape, Image.Resampling.LANCZOS)
    left, top = (SIDE - width) // 2, (SIDE - BAND - height) // 2 + MARGIN
    picture.paste(part, (left, top))
    ImageDraw.Draw(picture).rectangle(
        (left - 2, top - 2, left + width + 1, top + height + 1), outline=WHITE, width=2
    )
    return picture


def labelled(picture: Image.Image, template: Template, size: str) -> Image.Image:
    """The picture with what the template makes, its size, and what has made the picture."""
    band = Image.new("RGBA", (SIDE, BAND), (*TILE, 215))
    picture.paste(band, (0, SIDE - BAND), band)
    draw = ImageDraw.Draw(picture)
    model, _, task = template.makes.partition(" ")
    draw.text((MARGIN, SIDE - BAND + 12), model, font=font(44), fill=WHITE)
    draw.text((MARGIN, SIDE - BAND + 64), task, font=font(32), fill=WHITE)
    draw.text((MARGIN, SIDE - 42), LABEL, font=font(26), fill=GREY)
    tag(draw, size, (SIDE - MARGIN, SIDE - BAND + 14))
    return picture


def tag(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int]) -> None:
    """A word in a frame; `corner` is its upper right one."""
    right, top = corner
    width = round(draw.textlength(text, font=font(30))) + 28
    draw.rounded_rectangle((right - width, top, right, top + 44), 10, outline=WHITE, width=2)
    draw.text((right - width // 2, top + 22), text, font=font(30), fill=WHITE, anchor="mm")


def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own, the same on every machine."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def save(picture: Image.Image, title: str) -> None:
    """Beside the workflow, under the one name that ComfyUI's page asks for."""
    picture.save(FOLDER / f"{title}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [*TEMPLATES])
