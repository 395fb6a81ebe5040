"""CogVideoX1.5 as the existing pack runs it: diffusers' transformer, its blocks one after the other.

Facts of its design: a mesh of dp=2 by tp=4; projections into heads are split over `tp` by their inputs, the
one out of them by its outputs, which is the wrong way round; the second half of the feed-forward is split by
its outputs too; its first half, meant to be split, is named otherwise and so whole on every chip, as is all
else. Nothing is asked of activations outside of attention. The kernel runs in float32, and the keys' mean is
taken off twice. Guidance and solver are programs of their own, small ones, and not counted.
"""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.peers.attention import flash_attention, without_mean
from crystools_pipelines.interop.functional import as_jax, as_torch, call
from crystools_pipelines.parallel.sharding import Rules
from crystools_pipelines.weights.shapes import abstract_state

STACKS = ("num_layers",)
MESH = {"dp": 2, "tp": 4}

_RULES: Rules = (
    (r".*\.to_[qkv]\.weight", P(None, "tp")),
    (r".*\.to_out\.0\.weight", P("tp", None)),
    (r".*\.ff\.net\.2\.weight", P("tp", None)),
    (r".*", P()),
)


class _Attention:
    """Takes the place of diffusers' CogVideoXAttnProcessor2_0."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        text = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)

        def heads(projection: torch.nn.Module) -> torch.Tensor:
            return projection(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]

        def rotated(tensor: torch.Tensor) -> torch.Tensor:
            video = apply_rotary_emb(tensor[:, :, text:], image_rotary_emb)
            return torch.cat([tensor[:, :, :text], video], dim=2)

        query, key = rotated(attn.norm_q(heads(attn.to_q))), rotated(attn.norm_k(heads(attn.to_k)))
        output = as_torch(self._attend(*as_jax((query, key, heads(attn.to_v)))))
        output = attn.to_out[0](output.transpose(1, 2).flatten(2, 3))
        return output[:, text:], output[:, :text]

    def _attend(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        key = without_mean(without_mean(key))
        return flash_attention(query, key, value, self._mesh, dtype=jnp.float32)


def trace(
    configuration: dict[str, Any], mesh: Mesh, *, height: int, width: int, frames: int
) -> jax.stages.Traced:
    """One guided forward of the transformer with this configuration."""
    with torch.device("meta"):
        model = CogVideoXTransformer3DModel.from_config(configuration).eval()
    for block in model.transformer_blocks:
        block.attn1.processor = _Attention(mesh)
    config = model.config

    def forward(weights: Any, sample: jax.Array, timestep: jax.Array, text: jax.Array, rotary: Any) -> Any:
        inputs = {"hidden_states": sample, "encoder_hidden_states": text, "timestep": timestep}
        return call(model, weights, **inputs, image_rotary_emb=rotary, return_dict=False)[0]

    whole = NamedSharding(mesh, P())
    time_steps = -(-((frames - 1) // 4 + 1) // config.patch_size_t)  # filled up to whole patches
    rows, columns = height // 8, width // 8
    tokens = time_steps * (rows // config.patch_size) * (columns // config.patch_size)
    sample = (2, time_steps * config.patch_size_t, config.in_channels, rows, columns)
    table = jax.ShapeDtypeStruct((tokens, config.attention_head_dim), jnp.float32, sharding=whole)
    arguments = (
        jax.ShapeDtypeStruct(sample, jnp.bfloat16, sharding=whole),
        jax.ShapeDtypeStruct((2,), jnp.float32, sharding=whole),
        jax.ShapeDtypeStruct(
            (2, config.max_text_seq_length, config.text_embed_dim), jnp.bfloat16, sharding=whole
        ),
        (table, table),
    )
    return jax.jit(forward).trace(abstract_state(model, mesh, _RULES, "bfloat16"), *arguments)
