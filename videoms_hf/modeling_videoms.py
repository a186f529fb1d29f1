# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""VideoMS: a masked video autoencoder that computes on motion-rich tokens only.

Source: Hwang et al., arXiv:2211.10636; the networks are VideoMAE's (Tong et al., arXiv:2203.12602) and so are the
parameter names. B batch, T frames, C channels, N tokens of the clip, V encoded tokens, M predicted tokens, D width.
Token order is raster: (time, row, column), time slowest.
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_videoms import VideoMSConfig, check_architecture, token_counts
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
    check_clip,
    gather_slices,
    gather_tubelets,
    mean_per_time_step,
    pixel_targets,
    split_tubelets,
)


logger = logging.get_logger(__name__)


@dataclass
class VideoMSModelOutput(ModelOutput):
    """Features of the encoded tokens and where they come from.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_kept, hidden_size)`): features of the kept
            tokens (with a mask: of the visible ones), after the final norm.
        kept_ids (`torch.LongTensor` of shape `(batch_size, num_kept)`): which tokens these are, ascending, in
            [0, num_tokens); `None` with a mask.
        visible_ids, target_ids (`torch.LongTensor`): with a mask, the encoded tokens and those to be predicted.
        importance (`torch.FloatTensor` of shape `(batch_size, num_tokens)`): how much each token moves; `None` where
            the tokens were not chosen by motion.
        slice_ids (`torch.LongTensor` of shape `(batch_size, num_time_steps)`): the time steps drawn by frame
            selection, ascending; `None` where it is off.
    """

    last_hidden_state: Tensor | None = None
    kept_ids: Tensor | None = None
    visible_ids: Tensor | None = None
    target_ids: Tensor | None = None
    importance: Tensor | None = None
    slice_ids: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class VideoMSForPreTrainingOutput(ModelOutput):
    """Reconstruction loss and predictions.

    Args:
        loss (scalar): mean squared error over the targets' (normalised) pixels, in float32.
        logits (`torch.FloatTensor` of shape `(batch_size, num_targets, tubelet_size * patch * patch * channels)`):
            predicted pixels, ordered (frame, row, column, channel), channel fastest.
        visible_ids, target_ids (`torch.LongTensor`): tokens that were encoded and predicted, ascending.
        importance (`torch.FloatTensor` of shape `(batch_size, num_tokens)`): see [`VideoMSModelOutput`].
        slice_ids (`torch.LongTensor`): see [`VideoMSModelOutput`].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    visible_ids: Tensor | None = None
    target_ids: Tensor | None = None
    importance: Tensor | None = None
    slice_ids: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class VideoMSForVideoClassificationOutput(ModelOutput):
    """Class scores, with `kept_ids`, `importance` and `slice_ids` as in [`VideoMSModelOutput`]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    kept_ids: Tensor | None = None
    importance: Tensor | None = None
    slice_ids: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class VideoMSEmbeddings(nn.Module):
    """Selects tokens and embeds them: what is not selected is never embedded with a gradient."""

    def __init__(self, config: VideoMSConfig):
        super().__init__()
        self.config = config
        self.patch_embeddings = VideoMSPatchEmbeddings(config)
        self.position_embeddings = VideoMSPositionEmbeddings(config.num_tokens, config.hidden_size)
        self.frame_selector = VideoMSFrameSelector(config)
        self.selector = VideoMSTokenSelector(config)

    @torch.no_grad()
    def importance(self, pixel_values: Tensor) -> Tensor:
        """How much each token moves, (B, T, C, H, W) -> (B, N): the norm of the change of its patch embedding.

        The embedding is linear, so the change of the embeddings is the embedded change of the pixels. Taking the
        difference first, in float32, keeps it exact under bfloat16, where close embeddings would cancel.
        """
        _, changes = self._first_and_changes(pixel_values)
        changes = self.patch_embeddings(split_tubelets(changes, self.config), with_bias=False)  # (B, t - 1, h, w, D)
        return motion_importance(changes.flatten(2, 3))

    def importance_and_embeddings(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Motion and embedding of every token, (B, N) and (B, N, D), for one product's work: the first time step and
        the changes are embedded, their running sum is the embedding of each step."""
        first, changes = (split_tubelets(frames, self.config) for frames in self._first_and_changes(pixel_values))
        first = self.patch_embeddings(first).flatten(2, 3)
        changes = self.patch_embeddings(changes, with_bias=False).flatten(2, 3)  # (B, t - 1, L, D)
        dtype = torch.promote_types(changes.dtype, torch.float32)
        embeddings = torch.cat([first, changes], dim=1).cumsum(dim=1, dtype=dtype)
        return motion_importance(changes), embeddings.flatten(1, 2).to(changes.dtype)

    def _first_and_changes(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        size = self.config.tubelet_size
        weight = self.patch_embeddings.projection.weight
        frames = pixel_values.to(torch.promote_types(weight.dtype, torch.float32))
        return frames[:, :size], frames[:, size:] - frames[:, :-size]

    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        noise: Tensor | None = None,
        keep_ratio: float | None = None,
        for_pretraining: bool = False,
        slice_noise: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """The encoder's input (B, V, D), and which tokens it holds, as the fields of [`VideoMSModelOutput`]."""
        grid = check_clip(pixel_values, self.config)
        chosen = dict.fromkeys(("kept_ids", "visible_ids", "target_ids", "importance", "slice_ids"))
        if self.config.candidate_ratio > 1:
            importance = self.importance(pixel_values)
            chosen["slice_ids"] = self.frame_selector(importance, grid[0], slice_noise)
            pixel_values = gather_slices(pixel_values, chosen["slice_ids"], self.config.tubelet_size)
            grid = check_clip(pixel_values, self.config)
        importance = embeddings = None
        if bool_masked_pos is None and self.selector.uses_motion:
            if torch.is_grad_enabled():  # score without a gradient, then embed what is kept with one
                importance = self.importance(pixel_values)
            else:
                importance, embeddings = self.importance_and_embeddings(pixel_values)
        chosen["importance"] = importance

        num_tokens, place = grid[0] * grid[1] * grid[2], (pixel_values.shape[0], grid)
        if bool_masked_pos is not None:
            chosen["visible_ids"], chosen["target_ids"] = split_masked(bool_masked_pos, num_tokens)
        elif for_pretraining:
            selection = self.selector.split(importance, *place, noise, pixel_values.device)
            chosen["visible_ids"], chosen["target_ids"] = selection
        else:
            chosen["kept_ids"] = self.selector.keep(importance, *place, keep_ratio, pixel_values.device)
        ids = chosen["visible_ids"] if chosen["kept_ids"] is None else chosen["kept_ids"]

        if embeddings is None:
            tubelets = split_tubelets(pixel_values, self.config)
            tubelets = tubelets.flatten(1, 3) if ids.shape[1] == num_tokens else gather_tubelets(tubelets, ids)
            embeddings = self.patch_embeddings(tubelets)
        elif ids.shape[1] < num_tokens:
            embeddings = embeddings.gather(1, ids[..., None].expand(-1, -1, embeddings.shape[-1]))
        return embeddings + self.position_embeddings(ids, num_tokens).to(embeddings.dtype), chosen


class VideoMSPreTrainedModel(OwnCheckpointsOnly, PreTrainedModel):
    """Initialisation, loading and what transformers needs to know of these models."""

    config: VideoMSConfig
    base_model_prefix = "videoms"
    main_input_name = "pixel_values"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    # Losses are means over clips and ignore Trainer's `num_items_in_batch`: Trainer is to average accumulated batches.
    accepts_loss_kwargs = False
    _no_split_modules = ["VideoMSEmbeddings", "VideoMSLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": VideoMSLayer, "attentions": VideoMSSelfAttention}

    def __init__(self, config: VideoMSConfig):
        check_architecture(config)
        super().__init__(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Official code: pre-training starts from Xavier uniform, classification from a truncated normal."""
        if isinstance(module, nn.Linear):
            if not self.config.final_norm:
                scale = self.config.head_init_scale if module is getattr(self, "classifier", None) else 1.0
                std = self.config.initializer_range * scale
                init.trunc_normal_(module.weight, std=std, a=-2 * scale, b=2 * scale)
            else:
                init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv3d):  # PyTorch's default
            fan_in = module.weight[0].numel()
            init.kaiming_uniform_(module.weight, a=5**0.5)
            init.uniform_(module.bias, -(fan_in**-0.5), fan_in**-0.5)
        elif isinstance(module, VideoMSPositionEmbeddings):
            init.copy_(module.table, sinusoid_table(*module.table.shape))
        elif isinstance(module, VideoMSForPreTraining):
            std = self.config.initializer_range
            init.trunc_normal_(module.mask_token, std=std, a=-std, b=std)
        else:
            super()._init_weights(module)  # LayerNorm

    def flops(self, clip_shape: tuple[int, int, int, int] | None = None, training: bool = False, **inputs) -> int:
        """MACs (what papers call FLOPs) of one clip's matrix products: a forward pass, with `training` backward too.

        `clip_shape` is (T, C, H, W), by default the configuration's; `inputs` go to `forward` (for example
        `keep_ratio=0.5`). Counted by `torch.utils.flop_counter` on the meta device.
        """
        from torch.utils.flop_counter import FlopCounterMode

        if clip_shape is None:
            clip_shape = (self.config.num_candidate_frames, self.config.num_channels, *self.config.image_shape)
        with torch.device("meta"):
            model = type(self)(self.config).to("meta").train(training)
            clip = torch.empty(1, *clip_shape)
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
            output = model(clip, **inputs)[0]
            if training:
                output.sum().backward()
        return counter.get_total_flops() // 2


class VideoMSModel(VideoMSPreTrainedModel):
    """The encoder: selects the moving tokens of a clip and returns their features.

    Loaded from a classifier's folder it returns the classifier's own features, which have no final norm.
    """

    def __init__(self, config: VideoMSConfig):
        super().__init__(config)
        self.embeddings = VideoMSEmbeddings(config)
        self.encoder = VideoMSEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.final_norm else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoMSModelOutput:
        """Features of the selected tokens.

        Args:
            pixel_values: clips (batch, frames, channels, height, width), normalised.
            bool_masked_pos: (batch, num_tokens), True = not encoded, equally many in each clip; replaces the selector.
            noise: with `for_pretraining`, the values in [0, 1) that decide which kept tokens are visible,
                see [`VideoMSForPreTraining`].
            keep_ratio: share of tokens to keep in (0, 1], by default the configuration's; 1 = no selection.
            for_pretraining: encode only the visible tokens of pre-training.
            slice_noise: with frame selection, (batch, candidate time steps) in [0, 1), by which the steps are drawn;
                by default from torch's generator in training, and in evaluation the best steps are taken.
        """
        if kwargs.get("output_attentions") and self.config._attn_implementation != "eager":
            logger.warning_once(
                f"output_attentions=True returns no attentions under {self.config._attn_implementation!r} attention; "
                'call model.set_attn_implementation("eager") first'
            )
        hidden_states, chosen = self.embeddings(
            pixel_values, bool_masked_pos, noise, keep_ratio, for_pretraining, slice_noise
        )
        hidden_states = self.encoder(hidden_states)
        if self.layernorm is not None:
            hidden_states = self.layernorm(hidden_states)
        # Built at once: a field that is assigned later would come later in the tuple, too.
        return VideoMSModelOutput(last_hidden_state=hidden_states, **chosen)

    def get_clip_features(self, pixel_values: Tensor, **inputs) -> Tensor:
        """One feature a clip, (B, D): the mean over its kept tokens. `inputs` go to `forward`."""
        return self(pixel_values, **inputs).last_hidden_state.mean(dim=1)

    def get_time_step_features(self, pixel_values: Tensor, **inputs) -> Tensor:
        """One feature a time step, (B, T / tubelet_size, D): the mean over the step's kept tokens.

        A step of which no token was kept has zeros. `inputs` go to `forward`.
        """
        outputs = self(pixel_values, **inputs)
        num_steps, rows, columns = check_clip(pixel_values, self.config)
        if outputs.slice_ids is not None:
            num_steps = outputs.slice_ids.shape[1]
        return mean_per_time_step(outputs.last_hidden_state, outputs.kept_ids, num_steps, rows * columns)


class VideoMSForPreTraining(VideoMSPreTrainedModel):
    """Masked autoencoder: of the moving tokens a few are visible and the others predicted; the rest is dropped."""

    def __init__(self, config: VideoMSConfig):
        super().__init__(config)
        self.videoms = VideoMSModel(config)
        token_counts(config, for_pretraining=True)  # refuse a clash now, not in a step
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
    ) -> VideoMSForPreTrainingOutput:
        """Predict the targets' pixels.

        Args:
            pixel_values: clips (batch, frames, channels, height, width), normalised with the configuration's
                `image_mean` and `image_std`.
            bool_masked_pos: (batch, num_tokens), True = to be predicted, False = visible, equally many in each clip;
                replaces the selector.
            noise: values in [0, 1); those with the smallest become visible. (batch, kept) in order of descending
                importance for motion selection, (batch, num_tokens) for "random" and "none", (batch, patches of a time
                step) for "tube". By default drawn from torch's generator in training, fixed in evaluation.
            slice_noise: see [`VideoMSModel`].
        """
        options = {**kwargs, "noise": noise, "slice_noise": slice_noise, "return_dict": True}
        outputs = self.videoms(pixel_values, bool_masked_pos, for_pretraining=True, **options)
        if outputs.slice_ids is not None:
            pixel_values = gather_slices(pixel_values, outputs.slice_ids, self.config.tubelet_size)
        tubelets = split_tubelets(pixel_values, self.config)
        num_tokens = tubelets.shape[1] * tubelets.shape[2] * tubelets.shape[3]
        logits = self.decoder(
            self.encoder_to_decoder(outputs.last_hidden_state),
            self.mask_token,
            outputs.visible_ids,
            outputs.target_ids,
            num_tokens,
        )
        with torch.no_grad():
            config = self.config
            targets = pixel_targets(
                gather_tubelets(tubelets, outputs.target_ids),
                config.norm_pix_loss,
                config.image_mean,
                config.image_std,
            )
        predictions = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return VideoMSForPreTrainingOutput(
            loss=F.mse_loss(predictions, targets.to(predictions)),  # the decoder may lie on another device
            logits=logits,
            visible_ids=outputs.visible_ids,
            target_ids=outputs.target_ids,
            importance=outputs.importance,
            slice_ids=outputs.slice_ids,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class VideoMSForVideoClassification(VideoMSPreTrainedModel):
    """Classifier on the mean of the kept tokens."""

    def __init__(self, config: VideoMSConfig):
        config = copy.deepcopy(config)
        config.final_norm = False  # Official code: `fc_norm` after the mean takes its place.
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoMSForVideoClassificationOutput:
        """Classify clips.

        Args:
            pixel_values: clips (batch, frames, channels, height, width), normalised; or several views of each video,
                (batch, views, frames, channels, height, width), whose class probabilities are averaged.
            labels: (batch,) class numbers, or (batch, num_labels) scores for multi-label and regression by
                `config.problem_type`; for `"single_label_classification"` also (batch, num_labels) probabilities.
            keep_ratio: share of tokens to keep in (0, 1], by default the configuration's; 1 = no selection.
            slice_noise: see [`VideoMSModel`]; a row for each view.
        """
        has_views = isinstance(pixel_values, Tensor) and pixel_values.ndim == 6
        clips = pixel_values.flatten(0, 1) if has_views else pixel_values
        outputs = self.videoms(clips, keep_ratio=keep_ratio, slice_noise=slice_noise, return_dict=True, **kwargs)
        features = self.fc_norm(outputs.last_hidden_state.mean(dim=1))
        logits = self.classifier(self.dropout(features))
        if has_views:
            logits = self._average_views(logits.unflatten(0, pixel_values.shape[:2]))
        loss = None
        if labels is not None:
            loss = self._loss(labels, logits, **kwargs)
        return VideoMSForVideoClassificationOutput(
            loss=loss,
            logits=logits,
            kept_ids=outputs.kept_ids,
            importance=outputs.importance,
            slice_ids=outputs.slice_ids,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _average_views(self, logits: Tensor) -> Tensor:
        """Logits (B, views, L) -> (B, L) whose probabilities are the mean of the views' (regression: their mean)."""
        if self.config.problem_type == "regression":
            return logits.mean(dim=1)
        if self.config.problem_type == "multi_label_classification":
            return logits.sigmoid().mean(dim=1).logit()
        return logits.log_softmax(dim=-1).logsumexp(dim=1) - math.log(logits.shape[1])

    def _loss(self, labels: Tensor, logits: Tensor, **kwargs) -> Tensor:
        # transformers' loss takes class numbers only; mixed clips and smoothed labels are probabilities.
        if self.config.problem_type == "single_label_classification" and labels.is_floating_point():
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return F.cross_entropy(logits, labels.to(logits.dtype))
        return self.loss_function(labels, logits, self.config, **kwargs)


__all__ = ["VideoMSForPreTraining", "VideoMSForVideoClassification", "VideoMSModel", "VideoMSPreTrainedModel"]
