# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Encoder and decoder, their transformer block, patch embeddings and fixed position embeddings.

The blocks are pre-norm, with the parameter names of VideoMAE (Tong et al., arXiv:2203.12602), and use transformers'
attention interface (eager, sdpa, flash, flex). B batch, N tokens, D width.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_videoms import VideoMSConfig


@functools.lru_cache(maxsize=8)
def sinusoid_table(num_positions: int, width: int) -> Tensor:
    """Fixed position embeddings (num_positions, width), computed in float64, returned in float32 on the CPU.

    angle(p, j) = p / 10000^(2 * floor(j / 2) / width); even columns are its sine, odd columns its cosine.
    """
    columns = torch.arange(width, dtype=torch.float64, device="cpu")
    divisors = torch.pow(10000.0, 2 * torch.div(columns, 2, rounding_mode="floor") / width)
    table = torch.arange(num_positions, dtype=torch.float64, device="cpu")[:, None] / divisors
    table[:, 0::2] = table[:, 0::2].sin()
    table[:, 1::2] = table[:, 1::2].cos()
    return table.float()


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: zeroes `x` of each sample with probability `rate` and scales the others by 1 / (1 - rate)."""
    if rate == 0 or not training:
        return x
    keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= rate
    return x * (keep / (1 - rate)).to(x.dtype)


def eager_attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask, scaling, dropout=0.0, **kwargs
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T * scaling) v, and the softmax; (B, heads, tokens, head size) -> (B, tokens, heads, head size)."""
    weights = (query @ key.transpose(-1, -2) * scaling).softmax(dim=-1)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class VideoMSTubeletProjection(nn.Conv3d):
    """Linear projection of flattened tubelets. The weights have the shape of a 3D convolution, as in VideoMAE."""

    def forward(self, tubelets: Tensor, with_bias: bool = True) -> Tensor:
        """(..., C, tubelet, patch, patch) -> (..., D)"""
        weight = self.weight.flatten(1)
        return F.linear(tubelets.flatten(-4).to(weight.dtype), weight, self.bias if with_bias else None)


class VideoMSPatchEmbeddings(nn.Module):
    """Embeds tubelets. The module exists for the parameter names of VideoMAE."""

    def __init__(self, config: VideoMSConfig):
        super().__init__()
        kernel = (config.tubelet_size, *config.patch_shape)
        self.projection = VideoMSTubeletProjection(config.num_channels, config.hidden_size, kernel, stride=kernel)

    def forward(self, tubelets: Tensor, with_bias: bool = True) -> Tensor:
        return self.projection(tubelets, with_bias)


class VideoMSPositionEmbeddings(nn.Module):
    """Fixed sin-cos embeddings. A row depends on its index only, so one table fits every length and resolution."""

    def __init__(self, num_positions: int, width: int):
        super().__init__()
        self.register_buffer("table", sinusoid_table(num_positions, width).clone(), persistent=False)

    def forward(self, ids: Tensor, num_positions: int) -> Tensor:
        """Embeddings of the token indices `ids`, all less than `num_positions`, (B, V) -> (B, V, width)."""
        table = self.table
        if num_positions > len(table):  # the clip is larger than the configuration's
            table = sinusoid_table(num_positions, table.shape[1]).to(table)
        return table[ids]


class VideoMSLinear(nn.Linear):
    """Linear layer that leaves initialisation to the model's `_init_weights`, instead of initialising twice."""

    def reset_parameters(self) -> None:
        pass


class VideoMSSelfAttention(nn.Module):
    """Multi-head attention. Queries and values have biases, keys do not."""

    def __init__(self, config: VideoMSConfig, width: int, num_heads: int):
        super().__init__()
        self.config = config
        self.head_size = width // num_heads
        self.scaling = self.head_size**-0.5
        self.dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.query = VideoMSLinear(width, width)
        self.key = VideoMSLinear(width, width, bias=False)
        self.value = VideoMSLinear(width, width)

    def forward(self, hidden_states: Tensor, num_outputs: int | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) -> (B, num_outputs, D) for the last `num_outputs` tokens (all by default), and the weights."""
        queried = hidden_states if num_outputs is None else hidden_states[:, -num_outputs:]
        query, key, value = (
            projected.unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, heads, N, head size)
            for projected in (self.query(queried), self.key(hidden_states), self.value(hidden_states))
        )
        implementation, dropout = self.config._attn_implementation, self.dropout if self.training else 0.0
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, weights = attend(
            self, query, key, value, None, is_causal=self.is_causal, scaling=self.scaling, dropout=dropout
        )
        return output.flatten(2), weights


class VideoMSDense(nn.Module):
    """Linear layer and dropout."""

    def __init__(self, in_width: int, out_width: int, dropout: float):
        super().__init__()
        self.dense = VideoMSLinear(in_width, out_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dropout(self.dense(hidden_states))


class VideoMSAttention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, config: VideoMSConfig, width: int, num_heads: int):
        super().__init__()
        self.attention = VideoMSSelfAttention(config, width, num_heads)
        self.output = VideoMSDense(width, width, config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, num_outputs: int | None = None) -> Tensor:
        return self.output(self.attention(hidden_states, num_outputs)[0])


class VideoMSLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block.

    With `recompute`, training recomputes the MLP's activation in the backward pass instead of storing it, which saves
    a quarter of the block's activation memory.
    """

    def __init__(
        self, config: VideoMSConfig, width: int, num_heads: int, mlp_width: int, drop_path_rate=0.0, recompute=False
    ):
        super().__init__()
        self.attention = VideoMSAttention(config, width, num_heads)
        self.intermediate = nn.ModuleDict(
            {"dense": VideoMSLinear(width, mlp_width), "activation": ACT2FN[config.hidden_act]}
        )
        self.output = VideoMSDense(mlp_width, width, config.hidden_dropout_prob)
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.drop_path_rate = drop_path_rate
        self.recompute = recompute

    def forward(self, hidden_states: Tensor, num_outputs: int | None = None) -> Tensor:
        """(B, N, D) -> (B, num_outputs, D): the last `num_outputs` tokens, or all."""
        attended = self.attention(self.layernorm_before(hidden_states), num_outputs)
        if num_outputs is not None:
            hidden_states = hidden_states[:, -num_outputs:]
        hidden_states = hidden_states + drop_path(attended, self.drop_path_rate, self.training)
        changed = self.output.dropout(self._mlp(self.layernorm_after(hidden_states)))
        return hidden_states + drop_path(changed, self.drop_path_rate, self.training)

    def _mlp(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.intermediate.dense(hidden_states)
        # Gradient checkpointing recomputes the whole block, so a nested checkpoint would save nothing.
        recompute = self.recompute and self.training and not self.gradient_checkpointing
        if not (recompute and torch.is_grad_enabled()):
            return self._activate_and_project(hidden_states)
        # Recomputation stops once the input of the linear layer is known, so its product is not repeated.
        return checkpoint(self._activate_and_project, hidden_states, use_reentrant=False, preserve_rng_state=False)

    def _activate_and_project(self, hidden_states: Tensor) -> Tensor:
        return self.output.dense(self.intermediate.activation(hidden_states))


class VideoMSEncoder(nn.Module):
    """Blocks whose rate of stochastic depth rises linearly from 0 to `drop_path_rate`."""

    def __init__(self, config: VideoMSConfig):
        super().__init__()
        depth = config.num_hidden_layers
        sizes = config.hidden_size, config.num_attention_heads, config.intermediate_size
        rates = [config.drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        # Only the encoder recomputes: in the decoder it would cost time and save little.
        self.layer = nn.ModuleList(VideoMSLayer(config, *sizes, rate, recompute=True) for rate in rates)

    def forward(self, hidden_states: Tensor) -> Tensor:
        for layer in self.layer:
            hidden_states = layer(hidden_states)
        return hidden_states


class VideoMSDecoder(nn.Module):
    """Predicts the pixels of the targets from the encoded visible tokens; it never sees dropped tokens."""

    def __init__(self, config: VideoMSConfig):
        super().__init__()
        width = config.decoder_hidden_size
        sizes = width, config.decoder_num_attention_heads, config.decoder_intermediate_size
        depth = config.decoder_num_hidden_layers
        self.position_embeddings = VideoMSPositionEmbeddings(config.num_tokens, width)
        self.decoder_layers = nn.ModuleList(VideoMSLayer(config, *sizes) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = VideoMSLinear(width, config.num_channels * config.tubelet_size * math.prod(config.patch_shape))

    def forward(self, visible: Tensor, mask_token: Tensor, visible_ids: Tensor, target_ids: Tensor, num_tokens: int):
        """Encoded tokens (B, V, decoder width) -> predictions (B, M, values of a tubelet)."""
        positions = self.position_embeddings(torch.cat([visible_ids, target_ids], dim=1), num_tokens)
        targets = mask_token.to(visible.dtype).expand(*target_ids.shape, -1)
        hidden_states = torch.cat([visible, targets], dim=1) + positions.to(visible.dtype)
        for layer in self.decoder_layers[:-1]:
            hidden_states = layer(hidden_states)
        # Only targets are predicted, so the last block computes only their outputs.
        hidden_states = self.decoder_layers[-1](hidden_states, target_ids.shape[1])
        return self.head(self.norm(hidden_states))
