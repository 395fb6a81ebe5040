"""Runs with LoRAs: diffusers' latents with the same, nothing compiled and little read for another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline, Flux2Pipeline, UniPCMultistepScheduler, WanPipeline
from numpy.typing import NDArray
from safetensors.torch import save_file

from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.errors import RequestError
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS
from crystools_pipelines.requests.lora import EXPERTS, Lora
from crystools_pipelines.run import Generation, generate, started_run
from crystools_pipelines.runtime.job import choose_devices
from crystools_pipelines.runtime.residency import free_all, residency
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_pipelines.wan.wan22_t2v.request import Wan22T2VRequest
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.tensor_files import StoredTensor
from crystools_tpu.telemetry.comparison import compare
from tests.pipelines.lora_files import comfyui, factors, linears, peft, wan_name

LATENTS_TOLERANCE = 1e-3
# As the tests of the models without LoRAs have them: a session compiles each program once.
VIDEO: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 4}
COGVIDEOX: dict[str, Any] = VIDEO | {"num_frames": 17}
IMAGE: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 3}


@pytest.fixture(autouse=True)
def nothing_resident() -> Iterator[None]:
    free_all()
    yield
    free_all()


def embeddings(branches: int, tokens: int, width: int) -> torch.Tensor:
    """What a text encoder might have made of as many prompts: LoRAs do not touch it."""
    return torch.randn(branches, tokens, width, generator=torch.Generator().manual_seed(3))


def latents_of(
    request: Any, checkpoint: Path, encoded: torch.Tensor, devices: int = 1
) -> NDArray[np.float32]:
    """The stage that LoRAs are for, as `generate` runs it."""
    pipeline = MODELS[request.model].pipeline()
    source = Checkpoint(checkpoint).with_loras(request.loras)
    prepared = pipeline.prepare(request, source)
    mesh = pipeline.mesh(choose_devices(devices), source, request.branches)
    with started_run(request.model, {}, source, mesh, pipeline.denoisers(mesh, prepared)) as job:
        condition = pipeline.condition(job, request, prepared)
        latents = pipeline.denoise(job, request, prepared, encoded.numpy(), condition)
        return pipeline.without_padding(request, np.asarray(latents))  # type: ignore[no-any-return]


def by_diffusers(pipeline: Any, request: Any, size: dict[str, Any], **others: Any) -> NDArray[np.float32]:
    """Its own latents."""
    kept: list[NDArray[np.float32]] = []

    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        kept.append(tensors["latents"].numpy())
        return tensors

    pipeline(
        **size,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
        callback_on_step_end=keep,
        **others,
    )
    return kept[-1]


def loaded(kind: Any, checkpoint: Path) -> Any:
    """Diffusers' pipeline without what is not needed."""
    pipeline = kind.from_pretrained(checkpoint, text_encoder=None, tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def fused(pipeline: Any, folder: Path, *scales: float) -> tuple[Lora, ...]:
    """As many LoRAs as there are scales, of all the transformer's Linears, which are fused into it."""
    loras = []
    for seed, scale in enumerate(scales):
        path = folder / f"{seed}.safetensors"
        save_file(peft(factors(linears(pipeline.transformer), seed)), path)
        loras.append(Lora(str(path), scale))
        pipeline.load_lora_weights(path)
        pipeline.fuse_lora(lora_scale=scale)
        pipeline.unload_lora_weights()
    return tuple(loras)


FLUX2_EMBEDDINGS = embeddings(1, 512, 192)


@pytest.fixture(scope="module")
def flux2(tiny_flux2: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Flux2Request, NDArray[Any]]:
    """A request with two LoRAs, and what diffusers makes of it."""
    pipeline = loaded(Flux2Pipeline, tiny_flux2)
    loras = fused(pipeline, tmp_path_factory.mktemp("loras"), 0.7, -1.0)
    request = Flux2Request("a cat", **IMAGE, guidance_scale=4.0, seed=1, loras=loras)
    return request, by_diffusers(pipeline, request, IMAGE, prompt_embeds=FLUX2_EMBEDDINGS)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_latents_with_two_loras_are_those_of_diffusers(
    tiny_flux2: Path, flux2: tuple[Flux2Request, NDArray[Any]], devices: int
) -> None:
    request, latents = flux2
    found = latents_of(request, tiny_flux2, FLUX2_EMBEDDINGS, devices)
    np.testing.assert_allclose(found, latents, rtol=0, atol=LATENTS_TOLERANCE)
    if devices == 1:
        without = latents_of(replace(request, loras=()), tiny_flux2, FLUX2_EMBEDDINGS)
        assert np.abs(without - latents).max() > 0.1


def test_latents_of_cogvideox_are_those_of_diffusers(tiny_cogvideox: Path, tmp_path: Path) -> None:
    pipeline = loaded(CogVideoXPipeline, tiny_cogvideox)
    request = CogVideoXRequest("a cat", **COGVIDEOX, guidance_scale=6.0, loras=fused(pipeline, tmp_path, 0.8))
    both = embeddings(2, 226, 64)
    latents = by_diffusers(
        pipeline, request, COGVIDEOX, prompt_embeds=both[:1], negative_prompt_embeds=both[1:]
    )[:, request.padding_frames :]
    found = latents_of(request, tiny_cogvideox, both)
    np.testing.assert_allclose(found, latents, rtol=0, atol=LATENTS_TOLERANCE)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
def test_latents_of_two_experts_are_those_of_diffusers_with_a_lora_for_each(
    tiny_wan22_t2v: Path, tmp_path: Path
) -> None:
    pipeline = loaded(WanPipeline, tiny_wan22_t2v)
    loras: list[Lora] = []
    for expert, component in EXPERTS.items():
        path = tmp_path / f"{expert}.safetensors"
        tensors = factors(linears(getattr(pipeline, component)), seed=len(loras))
        save_file(comfyui(tensors, wan_name), path)
        pipeline.load_lora_weights(path, load_into_transformer_2=component == "transformer_2")
        loras.append(Lora(str(path), 0.8, expert))
    pipeline.fuse_lora(components=[*EXPERTS.values()], lora_scale=0.8)
    request = Wan22T2VRequest("a cat", **VIDEO, loras=tuple(loras))
    pipeline.scheduler = UniPCMultistepScheduler.from_config(
        pipeline.scheduler.config, flow_shift=request.shift
    )
    both = embeddings(2, 512, 64)
    latents = by_diffusers(
        pipeline,
        request,
        VIDEO,
        guidance_scale_2=request.guidance_scale_2,
        prompt_embeds=both[:1],
        negative_prompt_embeds=both[1:],
    )
    found = latents_of(request, tiny_wan22_t2v, both)
    np.testing.assert_allclose(found, latents, rtol=0, atol=LATENTS_TOLERANCE)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The file of each tensor that was read."""
    made: list[str] = []
    read = StoredTensor.read

    def reading(tensor: StoredTensor) -> NDArray[Any]:
        made.append(tensor.path.name)
        return read(tensor)

    monkeypatch.setattr(StoredTensor, "read", reading)
    return made


def test_another_lora_compiles_nothing_and_reads_what_it_changes(
    tiny_wan21: Path, tmp_path: Path, reads: list[str]
) -> None:
    layer = {"blocks.1.attn1.to_q": (128, 128)}
    save_file(peft(factors(layer | {"proj_out": (64, 128)}, 1)), tmp_path / "a.safetensors")
    save_file(peft(factors(layer, 2)), tmp_path / "b.safetensors")
    a, b = (f"{tmp_path}/{name}.safetensors" for name in "ab")

    def run(*loras: Lora) -> tuple[Generation, list[str]]:
        reads.clear()
        request = Wan21Request(
            "a cat", height=32, width=32, num_frames=1, num_inference_steps=1, guidance_scale=1.0, loras=loras
        )
        return generate(request, checkpoint=tiny_wan21, devices=1), sorted(reads)

    stored = "diffusion_pytorch_model.safetensors"
    plain, _ = run()
    with_a, read = run(Lora(a))
    assert read == ["a.safetensors"] * 4 + [stored] * 2
    with_b, read = run(Lora(b, 0.5))
    assert read == ["b.safetensors"] * 2 + [stored] * 2  # its own, and what the other one had changed
    weaker, read = run(Lora(b, 0.25))
    assert read == ["b.safetensors"] * 2 + [stored]
    again, read = run(Lora(b, 0.25))
    assert read == []
    none, read = run(Lora(a, 0.0))
    assert read == [stored]
    for generation in (with_a, with_b, weaker, again, none):
        assert [stage.compiles for stage in generation.report.stages if stage.compiles] == []
    np.testing.assert_array_equal(none.latents, plain.latents)
    np.testing.assert_array_equal(again.latents, weaker.latents)
    for generation in (with_a, with_b, weaker):
        assert np.any(generation.latents != plain.latents)
    assert "loras" not in plain.report.params
    assert with_b.report.params["loras"] == f"{b}=0.5"
    (difference,) = [
        each for each in compare(with_b.report, weaker.report).differences if each.name == "loras"
    ]
    assert (difference.a, difference.b) == (f"{b}=0.5", f"{b}=0.25")


def test_a_lora_that_does_not_fit_is_refused_before_a_stage(tiny_wan21: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(peft(factors({"blocks.9.attn1.to_q": (128, 128)})), path)
    with pytest.raises(
        RequestError, match=r"^loras: .*blocks\.9\.attn1\.to_q\.lora_A\.weight, which fits no"
    ):
        generate(Wan21Request("a cat", **VIDEO, loras=(Lora(str(path)),)), checkpoint=tiny_wan21, devices=1)
    assert residency.residents() == ()
