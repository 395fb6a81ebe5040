"""Why CogVideoX's attention is ours: diffusers' own is wrong under torchax."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, CogVideoXAttnProcessor2_0
from numpy.typing import NDArray

from crystools_pipelines.cogvideox.transformer import MeshAttention, rotary_embedding
from crystools_pipelines.interop.functional import call
from crystools_pipelines.parallel.mesh import make_mesh

TEXT_TOKENS = 5
CONFIG = {"attention_head_dim": 16, "sample_height": 300, "sample_width": 300}


@pytest.fixture(scope="module")
def layer() -> Attention:
    torch.manual_seed(0)
    attention = Attention(query_dim=32, heads=2, dim_head=16, qk_norm="layer_norm", bias=True, eps=1e-6)
    attention.norm_q.bias.data.normal_()
    return attention.eval()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    """Two latent patches of 3x2 and the text before them; the rotation is that of the video alone."""
    cosines, sines = rotary_embedding(CONFIG, (1, 4, 16, 6, 4))
    random = np.random.default_rng(0)
    return {
        "hidden_states": random.standard_normal((1, len(cosines), 32), np.float32),
        "encoder_hidden_states": random.standard_normal((1, TEXT_TOKENS, 32), np.float32),
        "image_rotary_emb": (cosines, sines),
    }


@pytest.fixture(scope="module")
def expected(layer: Attention, inputs: dict[str, Any]) -> NDArray[np.float32]:
    """The video's hidden states, by torch."""
    layer.set_processor(CogVideoXAttnProcessor2_0())
    with torch.no_grad():
        hidden, _ = layer(**jax.tree.map(torch.from_numpy, inputs))
    output: NDArray[np.float32] = hidden.numpy()
    return output


def under_torchax(layer: Attention, inputs: dict[str, Any]) -> Any:
    state = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    return jax.jit(partial(call, layer))(state, **inputs)


def test_diffusers_processor_is_wrong_under_torchax(
    layer: Attention, inputs: dict[str, Any], expected: NDArray[np.float32]
) -> None:
    """It writes the rotated queries and keys into a slice in place, and torchax loses what is written."""
    layer.set_processor(CogVideoXAttnProcessor2_0())
    hidden, _ = under_torchax(layer, inputs)
    assert np.abs(hidden - expected).max() > 1e-2


def test_ours_is_right_under_torchax(
    layer: Attention, inputs: dict[str, Any], expected: NDArray[np.float32]
) -> None:
    layer.set_processor(MeshAttention(make_mesh(jax.devices()[:2], branches=1, widths=(2,))))
    video, text = inputs["hidden_states"], inputs["encoder_hidden_states"]
    stream = np.concatenate([video, text, np.full((1, 3, 32), 9, np.float32)], axis=1)
    cosines, sines = inputs["image_rotary_emb"]
    tables = tuple(
        np.pad(table, ((0, TEXT_TOKENS), (0, 0)), constant_values=value)
        for table, value in ((cosines, 1), (sines, 0))
    )
    actual = under_torchax(layer, {"hidden_states": stream, "image_rotary_emb": tables})
    np.testing.assert_allclose(actual[:, : video.shape[1]], expected, rtol=0, atol=1e-5)
