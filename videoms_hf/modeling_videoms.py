# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""VideoMS: a masked video autoencoder that computes on the tokens that move.

Source: Hwang et al., arXiv:2211.10636. Networks and parameter names are those of VideoMAE (Tong et al.,
arXiv:2203.12602). B batch, T frames, C channels, t time steps (tubelets along time), L tokens per time step, N = t * L
tokens in raster order (time, row, column), V encoded tokens, D width.
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_videoms import VideoMSConfig, token_counts
from .layers_videoms import (
    VideoMSDecoder,
    VideoMSEncoder,
    VideoMSLayer,
    VideoMSLinear,
    VideoMSPatchEmbeddings,
    VideoMSPositionEmbeddings,
    VideoMSSelfAttention,
    sinusoid_table,
)
from .loading_videoms import OwnCheckpointsOnly
from .selection_videoms import VideoMSFrameSelector, VideoMSTokenSelector, motion_importance, split_masked
from .tubelets_videoms import (
    check_architecture,
    check_clip,
    gather_slices,
    gather_tubelets,
    mean_per_time_step,
    pixel_targets,
    split_tubelets,
)


logger = logging.get_logger(__name__)


@dataclass
class VideoMSOutput(ModelOutput):
    """Features of the encoded tokens, or loss and predictions of a head. Fields that do not apply are `None`.

    Args:
        loss (scalar): in pre-training the mean squared error over the pixels of the targets, in float32 or float64.
        logits (`torch.FloatTensor`): class scores `(batch_size, num_labels)`; in pre-training predicted pixels
            `(batch_size, num_targets, values)`, ordered (frame, row, column, channel), channel fastest.
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_encoded, hidden_size)`): features, after the
            final norm if there is one; not of heads.
        kept_ids (`torch.LongTensor` of shape `(batch_size, num_encoded)`): the encoded tokens, ascending, in
            [0, num_tokens); not in pre-training, nor with a mask, which have the next two instead.
        visible_ids, target_ids (`torch.LongTensor`): the encoded tokens and those to be predicted, ascending.
        importance (`torch.FloatTensor` of shape `(batch_size, num_tokens)`): motion, if tokens are selected by it.
        slice_ids (`torch.LongTensor` of shape `(batch_size, num_time_steps)`): the time steps that frame selection
            selected, ascending.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    kept_ids: Tensor | None = None
    visible_ids: Tensor | None = None
    target_ids: Tensor | None = None
    importance: Tensor | None = None
    slice_ids: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class VideoMSEmbeddings(nn.Module):
    """Selects tokens and embeds them. Only selected tokens are embedded with a gradient."""

    def __init__(self, config: VideoMSConfig):
        super().__init__()
        self.config = config
        self.patch_embeddings = VideoMSPatchEmbeddings(config)
        self.position_embeddings = VideoMSPositionEmbeddings(config.num_tokens, config.hidden_size)
        self.frame_selector = VideoMSFrameSelector(config)
        self.selector = VideoMSTokenSelector(config)

    @torch.no_grad()
    def importance(self, pixel_values: Tensor) -> Tensor:
        """Motion of every token, (B, T, C, H, W) -> (B, N): the norm of the change of its embedding or its pixels."""
        return motion_importance(self._changes(pixel_values))

    def importance_and_embeddings(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Motion of all tokens, (B, N), and their embeddings, (B, N, D), or `None` where these would cost more.

        With a gradient, only selected tokens are to be embedded. Without, the embeddings of a time step are those of
        the first one plus all changes since.
        """
        if torch.is_grad_enabled() or self.config.motion_score == "pixel":
            return self.importance(pixel_values), None
        first = split_tubelets(pixel_values[:, : self.config.tubelet_size], self.config)
        changes = self._changes(pixel_values)
        embeddings = torch.cat([self.patch_embeddings(first).flatten(2, 3), changes], dim=1)
        embeddings = embeddings.cumsum(dim=1, dtype=torch.promote_types(changes.dtype, torch.float32))
        return motion_importance(changes), embeddings.flatten(1, 2).to(changes.dtype)

    def _changes(self, pixel_values: Tensor) -> Tensor:
        """Change of each token since the previous time step, (B, T, C, H, W) -> (B, t - 1, L, D); D = 1 by pixels.

        The embedding is linear, so pixels can be subtracted first. In float32 that is exact; the difference of two
        close embeddings would not be in bfloat16.
        """
        size, weight = self.config.tubelet_size, self.patch_embeddings.projection.weight
        frames = pixel_values.to(torch.promote_types(weight.dtype, torch.float32))
        changes = split_tubelets(frames[:, size:] - frames[:, :-size], self.config)
        if self.config.motion_score == "pixel":
            return torch.linalg.vector_norm(changes, dim=(4, 5, 6, 7)).flatten(2)[..., None]
        return self.patch_embeddings(changes, with_bias=False).flatten(2, 3)

    def forward(
        self, pixel_values, bool_masked_pos, noise, keep_ratio, for_pretraining, slice_noise, num_kept_tokens
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Input of the encoder (B, V, D), and the fields of [`VideoMSOutput`] that tell which tokens it holds."""
        grid, fields = check_clip(pixel_values, self.config), {}
        if self.config.candidate_ratio > 1:
            fields["slice_ids"] = self.frame_selector(self.importance(pixel_values), grid[0], slice_noise)
            pixel_values = gather_slices(pixel_values, fields["slice_ids"], self.config.tubelet_size)
            grid = check_clip(pixel_values, self.config)

        importance = embeddings = None
        if bool_masked_pos is None and self.config.token_selection == "motion":
            importance, embeddings = self.importance_and_embeddings(pixel_values)
        fields["importance"] = importance
        batch_size, num_tokens, device = pixel_values.shape[0], math.prod(grid), pixel_values.device
        if bool_masked_pos is not None:
            ids, fields["target_ids"] = split_masked(bool_masked_pos, batch_size, num_tokens)
        elif for_pretraining:
            ids, fields["target_ids"] = self.selector.split(importance, batch_size, grid, noise, device)
        else:
            ids = self.selector.keep(importance, batch_size, grid, keep_ratio, device, num_kept_tokens)
        fields["visible_ids" if "target_ids" in fields else "kept_ids"] = ids

        if embeddings is None:
            embeddings = self.patch_embeddings(gather_tubelets(split_tubelets(pixel_values, self.config), ids))
        elif ids.shape[1] < num_tokens:
            embeddings = embeddings.gather(1, ids[..., None].expand(-1, -1, embeddings.shape[-1]))
        return embeddings + self.position_embeddings(ids, num_tokens).to(embeddings.dtype), fields


class VideoMSPreTrainedModel(OwnCheckpointsOnly, PreTrainedModel):
    """Initialisation, loading and what transformers needs to know about these models."""

    config: VideoMSConfig
    base_model_prefix = "videoms"
    main_input_name = "pixel_values"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch, so Trainer has to average accumulated batches
    _input_embed_layer = "patch_embeddings"
    _no_split_modules = ["VideoMSEmbeddings", "VideoMSLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": VideoMSLayer, "attentions": VideoMSSelfAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Official code: Xavier uniform in pre-training, a truncated normal in classification."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            if self.config.final_norm:
                init.xavier_uniform_(module.weight)
            else:
                scale = self.config.head_init_scale if module is getattr(self, "classifier", None) else 1.0
                init.trunc_normal_(module.weight, std=std * scale, a=-2 * scale, b=2 * scale)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv3d):  # PyTorch's default
            fan_in = module.weight[0].numel()
            init.kaiming_uniform_(module.weight, a=5**0.5)
            init.uniform_(module.bias, -(fan_in**-0.5), fan_in**-0.5)
        elif isinstance(module, VideoMSPositionEmbeddings):
            init.copy_(module.table, sinusoid_table(*module.table.shape))
        elif isinstance(module, VideoMSForPreTraining):
            init.trunc_normal_(module.mask_token, std=std, a=-std, b=std)
        else:
            super()._init_weights(module)  # LayerNorm

    def flops(self, clip_shape: tuple[int, int, int, int] | None = None, training: bool = False, **inputs) -> int:
        """MACs (papers call them FLOPs) of one clip's matrix products: forward, and backward too if `training`.

        `clip_shape` (T, C, H, W) defaults to the configuration's; `inputs`, such as `keep_ratio=0.5`, go to `forward`.
        """
        from torch.utils.flop_counter import FlopCounterMode

        shape = clip_shape or (self.config.num_candidate_frames, self.config.num_channels, *self.config.image_shape)
        with torch.device("meta"):
            model = self._from_config(copy.deepcopy(self.config), attn_implementation="eager").to("meta")
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
            output = model.train(training)(torch.empty(1, *shape, device="meta"), **inputs)[0]
            if training:
                output.sum().backward()
        return counter.get_total_flops() // 2


class VideoMSModel(VideoMSPreTrainedModel):
    """Encoder: selects the moving tokens of a clip and returns their features.

    From the folder of a classifier it loads the classifier's own features, which have no final norm.
    """

    def __init__(self, config: VideoMSConfig):
        check_architecture(config)
        super().__init__(config)
        self.embeddings = VideoMSEmbeddings(config)
        self.encoder = VideoMSEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.final_norm else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        noise: Tensor | None = None,
        keep_ratio: float | None = None,
        for_pretraining: bool = False,
        slice_noise: Tensor | None = None,
        num_kept_tokens: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoMSOutput:
        """Features of the selected tokens.

        Args:
            pixel_values: normalised clips (batch, frames, channels, height, width).
            bool_masked_pos: (batch, num_tokens), True = not encoded, equally many in each clip; replaces the selector.
            keep_ratio, num_kept_tokens: share of tokens to keep, in (0, 1], or their number, instead of the
                configuration's; a share of 1 turns selection off.
            for_pretraining: whether to encode only the tokens visible in pre-training.
            noise: decides which these are; see [`VideoMSForPreTraining`].
            slice_noise: (batch, candidate time steps), uniform in [0, 1), to draw time steps in frame selection. By
                default it is random in training; in evaluation the best time steps are selected without noise.
        """
        if kwargs.get("output_attentions") and self.config._attn_implementation != "eager":
            logger.warning_once(
                f"output_attentions=True returns no attentions with {self.config._attn_implementation!r} attention; "
                'call model.set_attn_implementation("eager") first'
            )
        hidden_states, fields = self.embeddings(
            pixel_values, bool_masked_pos, noise, keep_ratio, for_pretraining, slice_noise, num_kept_tokens
        )
        hidden_states = self.encoder(hidden_states)
        if self.layernorm is not None:
            hidden_states = self.layernorm(hidden_states)
        return VideoMSOutput(last_hidden_state=hidden_states, **fields)

    def get_clip_features(self, pixel_values: Tensor, **inputs) -> Tensor:
        """One feature per clip, (B, D): the mean over its encoded tokens. `inputs` go to `forward`."""
        return self(pixel_values, **inputs | {"return_dict": True}).last_hidden_state.mean(dim=1)

    def get_time_step_features(self, pixel_values: Tensor, **inputs) -> Tensor:
        """One feature per time step, (B, t, D): likewise, zeros for a time step without encoded tokens."""
        outputs = self(pixel_values, **inputs | {"return_dict": True})
        num_candidates, rows, columns = check_clip(pixel_values, self.config)
        num_steps = num_candidates if outputs.slice_ids is None else outputs.slice_ids.shape[1]
        ids = outputs.visible_ids if outputs.kept_ids is None else outputs.kept_ids
        return mean_per_time_step(outputs.last_hidden_state, ids, num_steps, rows * columns)


class VideoMSForPreTraining(VideoMSPreTrainedModel):
    """Masked autoencoder: of the moving tokens some are visible and the others predicted; the rest are dropped."""

    def __init__(self, config: VideoMSConfig):
        super().__init__(config)
        self.videoms = VideoMSModel(config)
        token_counts(config, for_pretraining=True)  # raises if the ratios do not fit together
        self.encoder_to_decoder = VideoMSLinear(config.hidden_size, config.decoder_hidden_size, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_hidden_size))
        self.decoder = VideoMSDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        noise: Tensor | None = None,
        slice_noise: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoMSOutput:
        """Predict the pixels of the targets.

        Args:
            pixel_values: clips (batch, frames, channels, height, width), normalised as the configuration says.
            bool_masked_pos: (batch, num_tokens), True = predicted, equally many in each clip; replaces the selector.
            noise: uniform in [0, 1); the tokens with the smallest values are visible. (batch, kept) in order of
                descending importance for "motion", (batch, num_tokens) for "random" and "none", (batch, tokens of a
                time step) for "tube". By default random in training and fixed in evaluation.
            slice_noise: see [`VideoMSModel`].
        """
        config, options = self.config, {**kwargs, "noise": noise, "slice_noise": slice_noise, "return_dict": True}
        outputs = self.videoms(pixel_values, bool_masked_pos, for_pretraining=True, **options)
        visible_ids, target_ids = outputs.visible_ids, outputs.target_ids
        if outputs.slice_ids is not None:
            pixel_values = gather_slices(pixel_values, outputs.slice_ids, config.tubelet_size)
        tubelets = split_tubelets(pixel_values, config)
        visible = self.encoder_to_decoder(outputs.last_hidden_state)
        logits = self.decoder(visible, self.mask_token, visible_ids, target_ids, math.prod(tubelets.shape[1:4]))
        with torch.no_grad():
            targets = gather_tubelets(tubelets, target_ids)
            targets = pixel_targets(targets, config.norm_pix_loss, config.image_mean, config.image_std)
        predictions = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.mse_loss(predictions, targets.to(predictions))  # the decoder may be on another device
        return VideoMSOutput(**{**outputs, "last_hidden_state": None, "loss": loss, "logits": logits})


class VideoMSForVideoClassification(VideoMSPreTrainedModel):
    """Classifier on the mean of the encoded tokens."""

    def __init__(self, config: VideoMSConfig):
        config = copy.deepcopy(config)
        config.final_norm = False  # Official code: `fc_norm`, after the mean, replaces it.
        super().__init__(config)
        self.num_labels = config.num_labels
        self.videoms = VideoMSModel(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = VideoMSLinear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        keep_ratio: float | None = None,
        slice_noise: Tensor | None = None,
        num_kept_tokens: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoMSOutput:
        """Classify clips.

        Args:
            pixel_values: normalised clips (batch, frames, channels, height, width); or several views of each video,
                (batch, views, frames, channels, height, width), whose class probabilities are averaged.
            labels: (batch,) class indices, or (batch, num_labels) values for multi-label classification and regression
                (`config.problem_type`), or probabilities if that is `"single_label_classification"`.
            keep_ratio, num_kept_tokens: see [`VideoMSModel`].
            slice_noise: see [`VideoMSModel`]; one row per view.
        """
        has_views = isinstance(pixel_values, Tensor) and pixel_values.ndim == 6
        clips = pixel_values.flatten(0, 1) if has_views else pixel_values
        options = {**kwargs, "keep_ratio": keep_ratio, "num_kept_tokens": num_kept_tokens, "return_dict": True}
        outputs = self.videoms(clips, slice_noise=slice_noise, **options)
        logits = self.classifier(self.dropout(self.fc_norm(outputs.last_hidden_state.mean(dim=1))))
        if has_views:
            logits = self._average_views(logits.unflatten(0, pixel_values.shape[:2]))
        loss = None if labels is None else self._loss(labels, logits, **kwargs)
        return VideoMSOutput(**{**outputs, "last_hidden_state": None, "loss": loss, "logits": logits})

    def _average_views(self, logits: Tensor) -> Tensor:
        """(B, views, num_labels) -> (B, num_labels): logits of the mean probability; the mean itself in regression."""
        problem_type = self.config.problem_type
        if problem_type == "regression" or problem_type is None and self.num_labels == 1:
            return logits.mean(dim=1)
        if problem_type == "multi_label_classification":
            return F.logsigmoid(logits).logsumexp(dim=1) - F.logsigmoid(-logits).logsumexp(dim=1)
        return logits.log_softmax(dim=-1).logsumexp(dim=1) - math.log(logits.shape[1])

    def _loss(self, labels: Tensor, logits: Tensor, **kwargs) -> Tensor:
        # transformers' loss takes class indices only; mixup and label smoothing give probabilities.
        if self.config.problem_type == "single_label_classification" and labels.is_floating_point():
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return F.cross_entropy(logits, labels.to(logits))
        return self.loss_function(labels, logits, self.config, **kwargs)


KINDS = {
    "pretraining": VideoMSForPreTraining,
    "classification": VideoMSForVideoClassification,
    "features": VideoMSModel,
}

__all__ = ["VideoMSForPreTraining", "VideoMSForVideoClassification", "VideoMSModel", "VideoMSPreTrainedModel"]
