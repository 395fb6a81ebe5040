"""FLUX.2: a transformer and a VAE whose random weights leave soft shapes."""

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.init import orthogonal_
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PreTrainedTokenizerFast

from crystools_pipelines.tiny.blur import blur
from crystools_pipelines.tiny.text import CORPUS, TEXT_WIDTH

_SPECIAL_TOKENS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<pad>",
)  # fmt: skip

_CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- set mark = {'system': 'SYSTEM_PROMPT', 'user': 'INST'}[message['role']] %}
    {{- '[' + mark + ']' + message['content'][0]['text'] + '[/' + mark + ']' }}
{%- endfor %}"""


def tiny_checkpoint() -> Flux2Pipeline:
    """FLUX.2-dev."""
    tokenizer = mistral_tokenizer()
    return Flux2Pipeline(
        tokenizer=tokenizer,
        text_encoder=mistral3(vocabulary=len(tokenizer)),
        transformer=flux2_transformer(),
        vae=flux2_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True
        ),
    )


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Mistral's special tokens and form of conversation, padding left."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        chat_template=_CHAT_TEMPLATE,
        model_max_length=131072,
    )


def mistral3(vocabulary: int) -> Mistral3ForConditionalGeneration:
    """The text encoder: as many layers as FLUX.2 looks behind, and a vision tower that it does not use."""
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": vocabulary,
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 128,
            "num_hidden_layers": 31,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 8,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e9,
            "sliding_window": None,
            "initializer_range": 0.2,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "patch_size": 14,
            "image_size": 28,
        },
        image_token_index=_SPECIAL_TOKENS.index("[IMG]"),
        tie_word_embeddings=False,
    )
    return Mistral3ForConditionalGeneration(config).eval()


def flux2_transformer() -> Flux2Transformer2DModel:
    """Predicts the noise less what attention makes of the prompt and of its neighbours."""
    model = Flux2Transformer2DModel(
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=8,
        joint_attention_dim=3 * TEXT_WIDTH,
        axes_dims_rope=(4, 4, 4, 4),
    ).eval()
    patches = orthogonal_(model.x_embedder.weight)  # [width, channels], as many of either
    model.proj_out.weight.copy_(0.6 * patches.T)
    return model


def flux2_vae() -> AutoencoderKLFlux2:
    """Blurs at every convolution, mixes channels at random and adds no constant colour."""
    model = AutoencoderKLFlux2(
        block_out_channels=(8, 16, 16, 16), norm_num_groups=4, layers_per_block=1
    ).eval()
    for convolution in model.modules():
        if isinstance(convolution, torch.nn.Conv2d):
            blur(convolution)
    model.bn.running_mean.normal_(std=0.1)
    model.bn.running_var.uniform_(0.8, 1.2)
    return model
