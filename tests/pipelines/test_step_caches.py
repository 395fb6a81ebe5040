"""Step caches skip the steps that diffusers' hooks skip in its own pipelines, and end in its latents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline, Flux2Pipeline, UniPCMultistepScheduler, WanPipeline
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from numpy.typing import NDArray

from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.errors import RequestError
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS
from crystools_pipelines.requests.lora import parse_lora
from crystools_pipelines.requests.step_cache import MagCache, TaylorSeerCache, parse_step_cache
from crystools_pipelines.run import started_run
from crystools_pipelines.runtime.job import choose_devices, params_of
from crystools_pipelines.runtime.mag_ratios import Measured, skipped_steps
from crystools_pipelines.runtime.step_caching import planned_skips
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_pipelines.wan.wan22_t2v.request import Wan22T2VRequest
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu.telemetry import RunReport, StageName, StageReport

TOLERANCE = 1e-3
SMALL: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 9}
RATIOS = [1.0, 1.004, 1.008, 0.98, 0.99, 1.01, 1.03, 1.02, 1.05]
Array = NDArray[np.float32]


class Answer:
    """Diffusers' latents, and how often each step ran all blocks."""

    def __init__(self) -> None:
        self.latents: Any = None
        self.ran: list[int] = []
        self.calls = 0

    def count(self, *_: Any) -> None:
        """The second block runs."""
        self.calls += 1

    def keep(self, _pipeline: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """A step has ended."""
        self.latents = tensors["latents"]
        self.ran.append(self.calls)
        self.calls = 0
        return tensors


@dataclass(frozen=True)
class Model:
    """A tiny model, asked for something by way of embeddings of so many tokens and channels."""

    folder: Path
    request: Any
    torch_pipeline: type[Any]
    text: tuple[int, int]
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def embeddings(self) -> Array:
        shape = (self.request.branches, *self.text)
        return np.random.default_rng(5).normal(size=shape).astype(np.float32)

    def ours(self, rule: str | None, devices: int = 1) -> tuple[Array, RunReport]:
        """The latents and the run's report."""
        step_cache = None if rule is None else parse_step_cache("step_cache", rule)
        request = replace(self.request, step_cache=step_cache)
        pipeline, checkpoint = MODELS[request.model].pipeline(), Checkpoint(self.folder)
        prepared = pipeline.prepare(request, checkpoint)
        mesh = pipeline.mesh(choose_devices(devices), checkpoint, request.branches)
        parts = pipeline.denoisers(mesh, prepared)
        with started_run(request.model, params_of(request), checkpoint, mesh, parts) as job:
            condition = pipeline.condition(job, request, prepared)
            latents = np.asarray(pipeline.denoise(job, request, prepared, self.embeddings, condition))
        return pipeline.without_padding(request, latents), job.run.report

    @cached_property
    def pipeline(self) -> Any:
        """Diffusers' own."""
        pipeline = self.torch_pipeline.from_pretrained(self.folder, text_encoder=None, tokenizer=None)
        pipeline.set_progress_bar_config(disable=True)
        if self.torch_pipeline is WanPipeline:
            shift = getattr(self.request, "flow_shift", None) or self.request.shift
            config = pipeline.scheduler.config
            pipeline.scheduler = UniPCMultistepScheduler.from_config(config, flow_shift=shift)
        return pipeline

    @property
    def transformers(self) -> list[Any]:
        """Diffusers' own."""
        both = (getattr(self.pipeline, name, None) for name in ("transformer", "transformer_2"))
        return [each for each in both if each is not None]

    def theirs(self, *configs: Any) -> Answer:
        """By diffusers, with a config for each transformer."""
        for transformer, config in zip(self.transformers, configs, strict=True):
            transformer.enable_cache(config)
        try:
            # A context for all that the pipeline itself names none for.
            with self.transformers[0].cache_context("all"):
                return self.answer()
        finally:
            for transformer in self.transformers:
                transformer.disable_cache()

    def answer(self) -> Answer:
        """By diffusers, as its transformers are."""
        request, prompts, answer = self.request, torch.from_numpy(self.embeddings), Answer()
        negative = {"negative_prompt_embeds": prompts[1:]} if request.branches == 2 else {}
        seconds = [_blocks(transformer)[1] for transformer in self.transformers]
        counters = [_attention(block).register_forward_hook(answer.count) for block in seconds]
        self.pipeline(
            prompt_embeds=prompts[:1],
            **negative,
            **self.options,
            height=request.height,
            width=request.width,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
            output_type="latent",
            callback_on_step_end=answer.keep,
        )
        for counter in counters:
            counter.remove()
        answer.latents = answer.latents.numpy()[:, getattr(request, "padding_frames", 0) :]
        return answer


def _blocks(transformer: Any) -> Any:
    return getattr(transformer, "blocks", None) or transformer.transformer_blocks


def _attention(block: Any) -> Any:
    return getattr(block, "attn1", None) or block.attn


@pytest.fixture(scope="module")
def wan(tiny_wan21: Path) -> Model:
    request = Wan21Request("", num_frames=5, **SMALL)
    return Model(tiny_wan21, request, WanPipeline, (512, 64), {"num_frames": 5})


@pytest.fixture(scope="module")
def experts(tiny_wan22_t2v: Path) -> Model:
    """Six steps by the first transformer, three by the other."""
    request = Wan22T2VRequest("", num_frames=5, **SMALL)
    return Model(tiny_wan22_t2v, request, WanPipeline, (512, 64), {"num_frames": 5, "guidance_scale_2": 3.0})


@pytest.fixture(scope="module")
def cogvideox(tiny_cogvideox: Path) -> Model:
    request = CogVideoXRequest("", num_frames=9, **SMALL)
    return Model(tiny_cogvideox, request, CogVideoXPipeline, (226, 64), {"num_frames": 9})


@pytest.fixture(scope="module")
def flux2(tiny_flux2: Path) -> Model:
    return Model(tiny_flux2, Flux2Request("", **SMALL), Flux2Pipeline, (512, 3 * 64))


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which ratios are kept."""
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path))
    return tmp_path


def keep_ratios(model: Model, **ratios: list[float]) -> None:
    """Each transformer's, as if they had been measured."""
    lists = {component: [each, each] for component, each in ratios.items()}
    Measured(model.request.model, Checkpoint(model.folder)).keep(lists)


def check(ours: tuple[Array, RunReport], theirs: Answer, branches: int = 1) -> list[StageReport]:
    """The latents are theirs, and so are the steps in which nothing ran; gives the denoising stages."""
    latents, report = ours
    np.testing.assert_allclose(latents, theirs.latents, rtol=0, atol=TOLERANCE)
    stages = [stage for stage in report.stages if stage.name is StageName.DENOISE]
    kinds = [step.kind for stage in stages for step in stage.steps]
    assert kinds == ["full" if ran else "cached" for ran in theirs.ran]
    assert sum(stage.recompiles for stage in stages) == 0
    return stages


# Of a step of the tiny Wan: with all blocks, with the first, with none.
FULL, FIRST, NONE = 357892096, 128057344, 720896


def test_wans_branches_skip_by_themselves_what_comes_after_the_first_block(wan: Model) -> None:
    theirs = wan.theirs(FirstBlockCacheConfig(0.23))
    assert theirs.ran == [2, 0, 0, 0, 0, 1, 1, 2, 2]
    (stage,) = check(wan.ours("first-block:0.23"), theirs)
    assert stage.flops == 3 * FULL + 2 * (FULL + FIRST) / 2 + 4 * FIRST
    assert stage.steps_by_kind is None  # nobody knew it before


def test_where_each_branch_has_devices_of_its_own_both_run_if_one_does(wan: Model) -> None:
    (stage,) = check(wan.ours("first-block:0.23", devices=8), wan.theirs(FirstBlockCacheConfig(0.23)))
    assert stage.flops == 5 * FULL + 4 * FIRST


def test_another_threshold_compiles_nothing_and_at_0_the_bytes_are_those_without_a_cache(wan: Model) -> None:
    wan.ours("first-block:0.23")
    latents, report = wan.ours("first-block:1e-9")
    assert sum(stage.compile_seconds or 0 for stage in report.stages) == 0
    without, _ = wan.ours(None)
    np.testing.assert_allclose(latents, without, rtol=0, atol=1e-4)
    for rule in ("first-block:0", "mag:0"):
        keep_ratios(wan, transformer=RATIOS)
        np.testing.assert_array_equal(wan.ours(rule)[0], without)


def test_mag_skips_by_the_ratios(wan: Model) -> None:
    keep_ratios(wan, transformer=RATIOS)
    config = MagCacheConfig(threshold=0.05, max_skip_steps=2, num_inference_steps=9, mag_ratios=RATIOS)
    theirs = wan.theirs(config)
    assert theirs.ran == [2, 2, 0, 0, 2, 0, 2, 0, 2]
    (stage,) = check(wan.ours("mag:0.05,0.2,2"), theirs)
    assert stage.flops == 5 * FULL + 4 * NONE
    assert stage.steps_by_kind == {"full": 5, "cached": 4}


def test_each_of_two_experts_skips_by_its_own_ratios_and_count(experts: Model) -> None:
    ratios = {"transformer": RATIOS, "transformer_2": [1.0, 1.01, 0.99, 1.0]}
    keep_ratios(experts, **ratios)
    configs = (
        MagCacheConfig(threshold=0.05, num_inference_steps=steps, mag_ratios=each)
        for steps, each in zip((6, 3), ratios.values(), strict=True)
    )
    theirs = experts.theirs(*configs)
    assert theirs.ran == [2, 0, 0, 0, 2, 0, 2, 0, 0]
    check(experts.ours("mag:0.05"), theirs)


def test_taylorseer_continues_the_outputs(wan: Model) -> None:
    config = TaylorSeerCacheConfig(3, use_lite_mode=True, taylor_factors_dtype=torch.float32)
    theirs = wan.theirs(config)
    assert theirs.ran == [2, 2, 2, 0, 2, 0, 0, 2, 0]
    (stage,) = check(wan.ours("taylorseer:3"), theirs)
    assert stage.flops == 5 * FULL


def test_what_is_calibrated_is_what_diffusers_measures_and_is_found_again(
    wan: Model, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    wan.theirs(MagCacheConfig(calibrate=True, num_inference_steps=9))
    printed = re.findall(r"^\[[\d., e-]+\]$", capsys.readouterr().out, re.MULTILINE)
    latents, report = wan.ours("calibrate")
    np.testing.assert_allclose(latents, wan.ours(None)[0], rtol=0, atol=1e-4)
    (path,) = (data / "mag-ratios").iterdir()
    assert report.warnings == (f"the step cache's ratios are measured; mag now takes those in {path}",)
    ratios = json.loads(path.read_text())["ratios"]["transformer"]
    np.testing.assert_allclose(ratios, [json.loads(each) for each in printed], rtol=1e-4)
    found, news = Measured("wan2.1-t2v", Checkpoint(wan.folder)).find(["transformer"])
    assert (found, news) == ({"transformer": ratios}, None)


def test_cogvideoxs_branches_decide_together(cogvideox: Model) -> None:
    theirs = cogvideox.theirs(FirstBlockCacheConfig(0.35))
    assert theirs.ran == [1, 1, 1, 1, 1, 1, 0, 1, 0]
    check(cogvideox.ours("first-block:0.35"), theirs)


def test_cogvideox_by_mag(cogvideox: Model) -> None:
    keep_ratios(cogvideox, transformer=RATIOS)
    config = MagCacheConfig(threshold=0.05, num_inference_steps=9, mag_ratios=RATIOS)
    check(cogvideox.ours("mag:0.05"), cogvideox.theirs(config))


def test_flux2_by_mag(flux2: Model) -> None:
    keep_ratios(flux2, transformer=RATIOS)
    config = MagCacheConfig(threshold=0.05, num_inference_steps=9, mag_ratios=RATIOS)
    theirs = flux2.theirs(config)
    assert theirs.ran == [1, 1, 0, 0, 0, 1, 0, 1, 0]
    check(flux2.ours("mag:0.05"), theirs)


def test_flux2_has_the_first_blocks_rule_over_both_kinds_of_blocks(flux2: Model) -> None:
    with first_block_rule(flux2.transformers[0], 0.6):
        theirs = flux2.answer()
    assert theirs.ran == [1, 0, 1, 0, 1, 1, 1, 1, 1]
    ours = flux2.ours("first-block:0.6")
    check(ours, theirs)
    assert ours[1].warnings == (
        "diffusers has no FirstBlockCache for this model's two kinds of blocks; here its rule is applied to "
        "both as one stack",
    )


@contextmanager
def first_block_rule(transformer: Any, threshold: float) -> Iterator[None]:
    """FirstBlockCacheConfig's rule for FLUX.2, for which diffusers' hook fails."""
    double, single = transformer.transformer_blocks, transformer.single_transformer_blocks
    first: Any = None
    others: Any = None
    head: Any = None
    skips = False

    def run_first(run: Callable[..., Any], **inputs: Any) -> Any:
        nonlocal first, head, skips
        text, head = run(**inputs)
        residual = head - inputs["hidden_states"]
        if first is not None:
            skips = bool((residual - first).abs().mean() / first.abs().mean() <= threshold)
        if skips:
            return text, head + others
        first = residual
        return text, head

    def run_double(run: Callable[..., Any], **inputs: Any) -> Any:
        return (inputs["encoder_hidden_states"], inputs["hidden_states"]) if skips else run(**inputs)

    def run_single(run: Callable[..., Any], **inputs: Any) -> Any:
        nonlocal others
        if skips:
            return inputs["hidden_states"]
        output = run(**inputs)
        others = output[:, -head.shape[1] :] - head  # the last block's stay
        return output

    runners = [run_first, *[run_double] * (len(double) - 1), *[run_single] * len(single)]
    blocks = [*double, *single]
    for block, runner in zip(blocks, runners, strict=True):
        block.forward = partial(runner, block.forward)
    yield
    for block in blocks:
        del block.forward


def test_the_published_ratios_are_found_for_the_published_sizes_alone(tmp_path: Path, wan: Model) -> None:
    published = Checkpoint(MODELS["wan2.1-t2v"].write_published(tmp_path / "wan"))
    ratios, news = Measured("wan2.1-t2v", published).find(["transformer"])
    skips = skipped_steps(MagCache(0.12, 0.2, 2), ratios["transformer"], 50)
    assert (sum(skips), skips.index(True), news) == (25, 10, None)
    with pytest.raises(RequestError, match=r"step_cache: no ratios of .* are known, .*; run it once with"):
        wan.ours("mag:0.1")


@pytest.mark.parametrize("model", ["wan2.2-t2v", "wan2.2-i2v"])
def test_the_published_ratios_of_two_experts_are_of_as_many_steps_as_each_takes(
    model: str, tmp_path: Path
) -> None:
    published = Checkpoint(MODELS[model].write_published(tmp_path / "wan"))
    ratios, _ = Measured(model, published).find(["transformer", "transformer_2"])
    noisy, rest = (len(ratios[component][0]) for component in ("transformer", "transformer_2"))
    assert (noisy, rest) == {"wan2.2-t2v": (26, 14), "wan2.2-i2v": (15, 25)}[model]


def test_ratios_measured_without_the_loras_are_taken_and_said(wan: Model) -> None:
    keep_ratios(wan, transformer=RATIOS)
    checkpoint, loras = Checkpoint(wan.folder), [parse_lora("loras", "org/name")]
    _, news = Measured("wan2.1-t2v", checkpoint, loras).find(["transformer"])
    assert news is not None
    assert "measured without the LoRAs" in news
    Measured("wan2.1-t2v", checkpoint, loras).keep({"transformer": [RATIOS]})
    ratios, news = Measured("wan2.1-t2v", checkpoint, loras).find(["transformer"])
    assert (ratios, news) == ({"transformer": [RATIOS]}, None)


@pytest.mark.parametrize("content", ["", "[]", '{"ratios": {"transformer": [[]]}}', '{"ratios": 1}'])
def test_a_file_that_holds_no_ratios_is_named(wan: Model, content: str) -> None:
    path = Measured("wan2.1-t2v", Checkpoint(wan.folder)).path()
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(RequestError, match=f"ratios in {path} cannot be read; delete it, and run it once"):
        wan.ours("mag:0.1")


def test_a_rule_that_skips_nothing_whatever_is_made_is_refused_before_the_work(wan: Model) -> None:
    with pytest.raises(RequestError, match="step_cache: taylorseer:1 runs every step; give an interval of 2"):
        wan.ours("taylorseer:1")


def test_few_steps_are_all_run() -> None:
    assert planned_skips(TaylorSeerCache(2), 3) == [False] * 3
    assert skipped_steps(MagCache(1.0), [RATIOS], 1) == [False]
