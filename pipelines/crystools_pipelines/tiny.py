"""Tiny random checkpoints in the real diffusers format, for tests and for the demo.

Same classes, same files and same compression ratios as the published model; only the sizes are small. The
weights are random, arranged so that a video shows moving shapes which depend on seed and prompt, and
deterministic: writing the same model twice gives byte-identical files.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import sentencepiece
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch.nn.init import orthogonal_, zeros_
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel
from transformers.utils import logging

SEED = 20250225
TEXT_WIDTH = 64
CORPUS = (
    "A cat walks along the beach at sunset while gentle waves roll over the warm sand.",
    "Two anthropomorphic cats in comfy boxing gear fight on a spotlighted stage.",
    "The camera slowly moves through a forest of tall trees after the rain.",
    "A red car drives down a winding mountain road, seen from above, in the morning light.",
    "An astronaut rides a white horse across a field of flowers under a bright blue sky.",
    "Close-up of a hand painting a watercolour portrait, soft focus, natural light, high quality.",
    "Bright tones, overexposed, static, blurred details, subtitles, worst quality, low quality, ugly.",
    "0 1 2 3 4 5 6 7 8 9 ! ? . , ; : ' \" ( ) - + / & % # @ * =",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
)


def write_tiny_checkpoint(model: str, directory: Path) -> Path:
    """Write a tiny random checkpoint of `model` into `directory`, which is made if need be, and return it.

    Raises ValueError for a model that has no tiny checkpoint and FileExistsError for a directory in use.
    """
    if model not in PIPELINES:
        known = ", ".join(sorted(PIPELINES))
        raise ValueError(f"model {model!r} has no tiny checkpoint; choose one of: {known}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is not an empty directory; name a new or an empty one")
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _no_progress_bars():
        torch.manual_seed(SEED)
        PIPELINES[model]().save_pretrained(directory, safe_serialization=True)
    return directory


def _wan21() -> WanPipeline:
    tokenizer = _tokenizer()
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=_umt5(vocabulary=len(tokenizer)),
        transformer=_wan_transformer(),
        vae=_wan_vae(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    )


def _tokenizer() -> T5Tokenizer:
    """A T5 tokenizer over a sentencepiece unigram model trained on the corpus above."""
    trained = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=trained,
        model_type="unigram",
        vocab_size=256,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def _umt5(vocabulary: int) -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=8,
        dropout_rate=0.0,
    )
    return UMT5EncoderModel(config).eval()


def _wan_transformer() -> WanTransformer3DModel:
    """Predicts the noise less its own average over neighbouring patches, so that large shapes remain."""
    model = WanTransformer3DModel(
        num_attention_heads=8, attention_head_dim=16, text_dim=TEXT_WIDTH, ffn_dim=256, num_layers=4
    ).eval()
    patches = orthogonal_(model.patch_embedding.weight)  # [width, channels, 1, 2, 2]
    model.proj_out.weight.copy_(0.6 * patches.permute(2, 3, 4, 1, 0).flatten(0, 3))
    for block in model.blocks:
        block.scale_shift_table[:, [2, 5]] += 1  # open the gates of self-attention and feed-forward
        # A bias shared by queries and keys makes attention, after its rotation, fall off with distance.
        neighbours = 2 * torch.randn_like(block.attn1.to_q.bias)
        block.attn1.to_q.bias.copy_(neighbours)
        block.attn1.to_k.bias.copy_(neighbours)
        block.attn1.to_out[0].weight.copy_(-orthogonal_(block.attn1.to_v.weight).T)
        orthogonal_(block.attn2.to_v.weight, gain=2)
        zeros_(block.attn2.to_v.bias)
    # The padding of a prompt is zeros and most of its tokens: without biases it says nothing, however long.
    text = model.condition_embedder.text_embedder
    zeros_(text.linear_1.bias)
    orthogonal_(text.linear_2.weight, gain=2)
    zeros_(text.linear_2.bias)
    return model


def _wan_vae() -> AutoencoderKLWan:
    """Blurs in space and time at every convolution, mixes channels at random and adds no constant colour."""
    model = AutoencoderKLWan(base_dim=8, num_res_blocks=1).eval()
    for name, convolution in model.named_modules():
        if isinstance(convolution, torch.nn.Conv2d | torch.nn.Conv3d):
            doubles_time = name.startswith("decoder") and name.endswith("time_conv")
            _blur(convolution, repeat_channels=doubles_time)
    centre = model.post_quant_conv.weight.flatten(1) @ torch.tensor(model.config.latents_mean)
    model.post_quant_conv.bias.copy_(-centre)
    return model


def _blur(convolution: torch.nn.Conv2d | torch.nn.Conv3d, repeat_channels: bool) -> None:
    out_channels, in_channels, *sizes = convolution.weight.shape
    taps = torch.ones(())
    for axis, size in enumerate(sizes):
        causal = axis == len(sizes) - 3
        blur = torch.tensor([0.0, 0.25, 0.75] if causal else [0.25, 0.5, 0.25])
        taps = taps.unsqueeze(-1) * (blur if size == 3 else torch.ones(1))
    if repeat_channels:
        mixing = torch.eye(in_channels).repeat(out_channels // in_channels, 1)
    else:
        mixing = orthogonal_(torch.empty(out_channels, in_channels))
        mixing -= mixing.mean(dim=1, keepdim=True)
    convolution.weight.copy_(torch.tensordot(mixing, taps, dims=0))
    zeros_(convolution.get_parameter("bias"))


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


PIPELINES: dict[str, Callable[[], WanPipeline]] = {"wan2.1-t2v": _wan21}
