"""What a run of CogVideoX reports, how it is split, and which checkpoints it refuses."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

from crystools_pipelines.cogvideox import sharding
from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.cogvideox.transformer import build_transformer
from crystools_pipelines.cogvideox.vae import TurnDecoder, build_decoder
from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.parallel.sharding import match
from crystools_pipelines.run import Generation, generate
from crystools_tpu import telemetry
from crystools_tpu.telemetry import CompileFinished, StageName

REQUEST = CogVideoXRequest("a cat", height=32, width=32, num_frames=17, num_inference_steps=3)


def generate_counting_compiles(
    request: CogVideoXRequest, checkpoint: Path, out: Path | None = None
) -> tuple[Generation, Counter[StageName]]:
    with telemetry.subscribe(maxlen=10_000) as events:
        generation = generate(request, checkpoint=checkpoint, devices=1, out=out)
        compiles = (event.stage_name for event in events.drain() if isinstance(event, CompileFinished))
        return generation, Counter(compiles)


@pytest.fixture(scope="module")
def counted(
    tiny_cogvideox: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Generation, Counter[StageName]]:
    return generate_counting_compiles(REQUEST, tiny_cogvideox, tmp_path_factory.mktemp("out") / "cat.npy")


def changed_checkpoint(original: Path, changed: Path, file: str, **changes: Any) -> Path:
    shutil.copytree(original, changed)
    path = changed / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return changed


def test_every_stage_and_step_is_reported(counted: tuple[Generation, Counter[StageName]]) -> None:
    report = counted[0].report
    assert (report.pipeline, report.params["guidance_scale"]) == ("cogvideox-t2v", 6.0)
    assert [(stage.name.value, stage.component, len(stage.steps)) for stage in report.stages] == [
        ("load", "text_encoder", 0),
        ("text_encode", None, 1),
        ("load", "transformer", 0),
        ("denoise", "transformer", 3),
        ("load", "vae", 0),
        ("vae_decode", None, 2),  # three latent frames, then two
        ("save", None, 0),
    ]
    assert all(step.finite for stage in report.stages for step in stage.steps)
    assert all(stage.recompiles == 0 for stage in report.stages)
    with_flops = [stage.name for stage in report.stages if stage.flops is not None]
    assert with_flops == ["text_encode", "denoise", "vae_decode"]
    assert report.output is not None
    np.testing.assert_array_equal(np.load(report.output), counted[0].frames)


def test_compiles_do_not_grow_with_frames_depth_or_steps(
    counted: tuple[Generation, Counter[StageName]], tiny_cogvideox: Path, tmp_path: Path
) -> None:
    deep = tmp_path / "deep"
    shutil.copytree(tiny_cogvideox, deep, ignore=shutil.ignore_patterns("transformer"))
    config = json.loads((tiny_cogvideox / "transformer" / "config.json").read_text())
    deeper = CogVideoXTransformer3DModel.from_config(config | {"num_layers": 3 * config["num_layers"]})
    deeper.save_pretrained(deep / "transformer")
    longer = CogVideoXRequest("a cat", height=32, width=32, num_frames=33, num_inference_steps=5)
    generation, compiles = generate_counting_compiles(longer, deep)
    assert len(generation.frames) == 33
    assert compiles[StageName.VAE_DECODE] == 2
    assert compiles[StageName.DENOISE] == counted[1][StageName.DENOISE]


def test_a_nan_is_found_at_the_first_step(tiny_cogvideox: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_cogvideox, broken)
    transformer = CogVideoXTransformer3DModel.from_pretrained(broken / "transformer")
    with torch.no_grad():
        transformer.proj_out.bias[0] = torch.nan
    transformer.save_pretrained(broken / "transformer")
    request = CogVideoXRequest("a cat", height=32, width=32, num_frames=1, num_inference_steps=2)
    report = generate(request, checkpoint=broken, devices=1).report
    denoise = next(stage for stage in report.stages if stage.name == StageName.DENOISE)
    assert denoise.first_nonfinite_step == 0


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("transformer/config.json", {"in_channels": 32}, "takes an image as well"),
        ("transformer/config.json", {"ofs_embed_dim": 512}, "takes an image as well"),
        ("transformer/config.json", {"patch_size_t": None}, "is of the first CogVideoX"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "the scheduler is DDIMSched"),
    ],
)
def test_a_checkpoint_that_is_another_model_is_refused(
    tiny_cogvideox: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    other = changed_checkpoint(tiny_cogvideox, tmp_path / "other", file, **changes)
    with pytest.raises(CheckpointError, match=message):
        generate(REQUEST, checkpoint=other, devices=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_post_quant_conv": True}, "has a convolution before the decoder"),
        ({"act_fn": "gelu"}, "is activated by gelu, not silu"),
    ],
)
def test_a_vae_that_has_more_to_it_is_refused(
    tiny_cogvideox: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    other = changed_checkpoint(tiny_cogvideox, tmp_path / "other", "vae/config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        build_decoder(other / "vae")


def test_a_picture_larger_than_the_checkpoint_knows_is_refused(tiny_cogvideox: Path, tmp_path: Path) -> None:
    small = changed_checkpoint(
        tiny_cogvideox, tmp_path / "small", "transformer/config.json", sample_height=2, sample_width=300
    )
    with pytest.raises(RequestError, match="height: 32 is more than this checkpoint knows; 16 would do"):
        generate(REQUEST, checkpoint=small, devices=1)


def test_every_weight_has_a_rule_and_little_is_whole_on_every_device(tmp_path: Path) -> None:
    """The published sizes: the classes' defaults, but for what 1.5 5B changed."""
    with torch.device("meta"):
        full = CogVideoXTransformer3DModel(
            num_attention_heads=48,
            num_layers=42,
            patch_size_t=2,
            patch_bias=False,
            use_rotary_positional_embeddings=True,
        )
        decoder = TurnDecoder(AutoencoderKLCogVideoX())
    (tmp_path / "config.json").write_text(json.dumps(dict(full.config)))
    mesh = make_mesh(jax.devices(), branches=2, widths=(48,))
    scanned = build_transformer(tmp_path, mesh)
    specs = match(sharding.TRANSFORMER, [name for name, _ in scanned.named_parameters()])
    match(sharding.VAE, [name for name, _ in decoder.named_parameters()])
    elements = {
        name: parameter.numel() * (42 if ".layer." in name else 1)
        for name, parameter in scanned.named_parameters()
    }
    assert sum(elements.values()) == sum(parameter.numel() for parameter in full.parameters())
    whole = sum(count for name, count in elements.items() if not any(specs[name]))
    assert whole < 0.02 * sum(elements.values())
