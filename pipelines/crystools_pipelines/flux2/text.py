"""A prompt to embeddings: the language model of Mistral 3 as diffusers' Flux2Pipeline uses it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from jax.sharding import Mesh
from transformers import AutoConfig, BatchEncoding, PreTrainedTokenizerBase
from transformers.models.mistral.modeling_mistral import (
    MistralAttention,
    MistralModel,
    MistralRotaryEmbedding,
    apply_rotary_pos_emb,
)

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.flux2.sharding import TEXT_ENCODER
from crystools_pipelines.interop.functional import as_jax, as_torch
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel import layout

MAX_TOKENS = 512
# After how many layers the hidden states are taken; what lies behind the last of them is not used.
LAYERS = (10, 20, 30)
LEFTOVERS = (
    r"language_model\.model\.layers\.[3-9]\d\..*",
    r"language_model\.(model\.norm|lm_head)\.weight",
    r"(vision_tower|multi_modal_projector)\..*",
    r".*\.rotary_emb\.inv_freq",
)


class PromptEncoder(torch.nn.Module):
    """The parts of Mistral3ForConditionalGeneration that embed a prompt, under the checkpoint's names."""

    def __init__(self, model: MistralModel, rotary_emb: MistralRotaryEmbedding, mesh: Mesh) -> None:
        super().__init__()
        for layer in model.layers:
            layer.self_attn = _Attention(layer.self_attn)
        self.rotary_emb = rotary_emb
        self.language_model = torch.nn.Module()
        self.language_model.model = torch.nn.Module()
        self.language_model.model.embed_tokens = model.embed_tokens
        self.language_model.model.layers = ScannedLayers(
            model.layers,
            every=True,
            weights=partial(layout.at_work, mesh, TEXT_ENCODER, "language_model.model.layers.layer."),
        )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embeddings `[prompts, tokens, 3 * width]` of token ids and mask `[prompts, tokens]`."""
        model: Any = self.language_model.model
        hidden = model.embed_tokens(ids)
        positions = jnp.arange(ids.shape[1])
        visible = (positions <= positions[:, None]) & (as_jax(mask) > 0)[:, None, None, :]
        rotary = self.rotary_emb(hidden, as_torch(positions[None]))
        states = model.layers(hidden, as_torch(visible), position_embeddings=rotary)
        return torch.cat([states[layer - 1] for layer in LAYERS], dim=-1)


class _Attention(torch.nn.Module):
    """Takes the place of MistralAttention.

    The transformer sees the padding's embeddings too, so what a padding token makes of having nothing to
    attend to matters: as in torch's own attention, zeros.
    """

    def __init__(self, attention: MistralAttention) -> None:
        super().__init__()
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.o_proj = attention.v_proj, attention.o_proj
        self.head_dim = attention.head_dim

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (p(hidden_states).unflatten(-1, (-1, self.head_dim)) for p in projections)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings, unsqueeze_dim=2)
        visible = as_jax(attention_mask)
        output = jax.nn.dot_product_attention(as_jax(query), as_jax(key), as_jax(value), mask=visible)
        sees_anything = jnp.swapaxes(visible.any(-1, keepdims=True), 1, 2)
        output = as_torch(jnp.where(sees_anything, output, 0))
        return self.o_proj(output.flatten(2)), None


def check_text_encoder(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of the text encoder's configuration.

    Raises CheckpointError for another text encoder than that of FLUX.2-dev.
    """
    if config["model_type"] != "mistral3":
        raise CheckpointError(
            f"the text encoder is {config['model_type']}, not mistral3; give a checkpoint of FLUX.2-dev"
        )
    text: dict[str, Any] = config["text_config"]
    if text["num_hidden_layers"] <= LAYERS[-1]:
        raise CheckpointError(
            f"the text encoder has {text['num_hidden_layers']} layers; more than {LAYERS[-1]} are needed"
        )
    if text["sliding_window"] is not None:
        raise CheckpointError("the text encoder has a sliding window; give a checkpoint of FLUX.2-dev")
    return text


def build_prompt_encoder(folder: Path, mesh: Mesh) -> PromptEncoder:
    """The encoder from the configuration in `folder`; parameters on the meta device, layers scanned."""
    config = AutoConfig.from_pretrained(folder).text_config
    config.num_hidden_layers = LAYERS[-1]
    with torch.device("meta"):
        model = MistralModel(config).eval()
    return PromptEncoder(model, MistralRotaryEmbedding(config), mesh)


def tokenize(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, **how: Any) -> BatchEncoding:
    """The tokens of the prompts, each in its conversation, padded and cut as `how` says."""
    conversations = format_input(list(prompts), SYSTEM_MESSAGE)
    return tokenizer.apply_chat_template(
        conversations, add_generation_prompt=False, tokenize=True, return_dict=True, **how
    )
