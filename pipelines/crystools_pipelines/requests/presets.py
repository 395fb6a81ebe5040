"""Settings that are published together, by name: for a model, the fields of its request that they set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.lora import Lora

_PLACES_STEPS: Final = ("scheduler", "num_inference_steps", "timesteps")
"""What says where the steps are beside the sigmas."""


@dataclass(frozen=True)
class Preset:
    """`settings` are fields of the request to `model`, with what they are set to; `source` is where that is
    published."""

    name: str
    model: str
    about: str
    settings: Mapping[str, Any]
    source: str

    def beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a request of which `given` are asked for: these count, the rest is the preset's.

        Its sigmas are for its own number of steps and scheduler, and left out with another.
        """
        settings = dict(self.settings)
        if any(name in given and given[name] != settings.get(name) for name in _PLACES_STEPS):
            settings.pop("sigmas", None)
        return {**settings, **given}


_LIGHTX2V: Final = (
    "https://github.com/ModelTC/LightX2V/blob/f8aee98b5462cca8d7288888146ebd95592bf266/configs/distill/"
)
_LIGHTX2V_ABOUT: Final = "4 steps of LightX2V's step-distilled LoRA, without guidance"
_LIGHTX2V_STEPS: Final[Mapping[str, Any]] = {
    "num_inference_steps": 4,
    "scheduler": "euler",
    "sigmas": (1.0, 0.75, 0.5, 0.25),
    "guidance_scale": 1.0,
}


def _wan22_loras(model: str, version: int) -> tuple[Lora, ...]:
    name = f"lightx2v/Wan2.2-Distill-Loras/wan2.2_{model}_A14b_%s_noise_lora_rank64_lightx2v_4step_{version}"
    return tuple(Lora(f"{name % expert}.safetensors", expert=expert) for expert in ("high", "low"))


PRESETS: Final = (
    Preset(
        "lightx2v-4step",
        "wan2.1-t2v",
        _LIGHTX2V_ABOUT,
        {
            **_LIGHTX2V_STEPS,
            "flow_shift": 5.0,
            "loras": (
                Lora("lightx2v/Wan2.1-Distill-Loras/wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors"),
            ),
        },
        _LIGHTX2V + "wan21/wan_t2v_distill_lora_4step_cfg.json",
    ),
    Preset(
        "lightx2v-4step",
        "wan2.2-t2v",
        _LIGHTX2V_ABOUT,
        {
            **_LIGHTX2V_STEPS,
            "guidance_scale_2": 1.0,
            "shift": 5.0,
            "boundary_ratio": 0.875,
            "loras": _wan22_loras("t2v", 1217),
        },
        _LIGHTX2V + "wan22/wan_moe_t2v_distill_lora.json",
    ),
    Preset(
        "lightx2v-4step",
        "wan2.2-i2v",
        _LIGHTX2V_ABOUT,
        {
            **_LIGHTX2V_STEPS,
            "guidance_scale_2": 1.0,
            "shift": 5.0,
            "boundary_ratio": 0.9,
            "loras": _wan22_loras("i2v", 1022),
        },
        _LIGHTX2V + "wan22/wan_moe_i2v_distill_with_lora.json",
    ),
)
"""All there are. The boundaries are the checkpoints' own: after two of the four steps, as published."""


def presets_of(model: str) -> dict[str, Preset]:
    """The model's presets, by name."""
    return {preset.name: preset for preset in PRESETS if preset.model == model}


def preset_named(model: str, name: str) -> Preset:
    """The model's preset of that name. Raises RequestError, with the names that there are."""
    presets = presets_of(model)
    if name not in presets:
        would_do = f"give {' or '.join(presets)}" if presets else "it has none; leave it out"
        raise RequestError("preset", f"{name!r} is no preset of {model}; {would_do}")
    return presets[name]
