# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What a model does with a clip, and the pictures of it: any kind of model, whole videos by sliding clips.

B clips, T frames (with frame selection all candidates), t time steps, N = t * h * w tokens in raster order.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..configuration_videoms import VideoMSConfig, floor_share
from ..data.dataset import check_usable
from ..modeling_videoms import VideoMSForPreTraining, VideoMSPreTrainedModel
from ..reader_videoms import VideoReader, redraws
from ..tubelets_videoms import check_clip
from ..video_processing_videoms import VideoMSVideoProcessor
from .drawings import frames_from_pixel_values, patches_to_frames, to_uint8
from .picture import MARGIN, ClipLayout, Panels, Row, draw_rows, frame_selection_row, token_members


ROWS = ("clip", "importance", "kept", "roles", "reconstruction", "frames")
PANEL_WIDTH = 380
SHARP = 224  # frames that the model sees smaller than this are drawn from the video's own pixels


class ClipTokens(NamedTuple):
    """What a model does with one clip."""

    grid: tuple[int, int, int]  # t, h, w
    importance: Tensor  # float32 (N,), whatever selects the tokens
    visible: Tensor  # bool (N,), encoded
    target: Tensor  # bool (N,), predicted: none except in pre-training
    chosen: Tensor  # bool (t,), time steps that frame selection chose: all without it
    restored: Tensor | None  # uint8 (T, C, H, W), predictions in place of the targets
    answer: str  # best class with its probability, or the loss
    probabilities: Tensor | None  # float32 (L,) of the classes: only of a classifier
    seconds: float  # of the model, per clip of the batch

    @property
    def kept(self) -> Tensor:
        """Tokens that are not dropped, bool (N,)."""
        return self.visible | self.target


@torch.inference_mode()
def clip_tokens(model: VideoMSPreTrainedModel, pixel_values: Tensor, selection: str | None = None) -> list[ClipTokens]:
    """What a model of any kind does with clips (B, T, C, H, W); `selection` replaces its `token_selection`."""
    config, pixel_values = model.config, pixel_values.to(model.device)
    with changed_config(config, token_selection=selection):
        grid = check_clip(pixel_values, config)
        start = time.perf_counter()
        outputs = model(pixel_values)
        scores = None if outputs.get("logits") is None else outputs.logits.float().cpu()
        seconds = (time.perf_counter() - start) / len(pixel_values)
    all_tokens = torch.arange(grid[0] * grid[1] * grid[2]).view(grid[0], -1)
    importance = torch.zeros(len(pixel_values), all_tokens.numel())
    if grid[0] > 1:
        importance = model.base_model.embeddings.importance(pixel_values).float().cpu()
    encoded = outputs.visible_ids if outputs.kept_ids is None else outputs.kept_ids
    found = []
    for i, clip in enumerate(pixel_values):
        slices = torch.arange(grid[0]) if outputs.slice_ids is None else outputs.slice_ids[i].cpu()
        chosen = token_members(slices, grid[0], "slice_ids")
        tokens = all_tokens[slices].flatten()  # ids count within the chosen time steps
        visible, target = (
            token_members(tokens[[] if ids is None else ids[i].cpu()], all_tokens.numel(), "ids")
            for ids in (encoded, outputs.target_ids)
        )
        restored, answer, probabilities = None, "", None
        if isinstance(model, VideoMSForPreTraining):
            restored = _restored(config, clip, slices, scores[i], outputs.target_ids[i])
            answer = f"loss {outputs.loss.item():.3g}"
        elif scores is not None:
            probabilities = scores[i].softmax(dim=-1)
            probability, label = probabilities.max(dim=-1)
            answer = f"{config.id2label[label.item()]} {probability.item():.0%}"
        roles = visible, target, chosen, restored
        found.append(ClipTokens(grid, importance[i], *roles, answer, probabilities, seconds))
    return found


def _restored(config: VideoMSConfig, clip: Tensor, slices: Tensor, patches: Tensor, target_ids: Tensor) -> Tensor:
    """All frames of a clip, uint8 (T, C, H, W), with predictions in place of the targets."""
    frames = frames_from_pixel_values(clip, config.image_mean, config.image_std)
    places = (slices[:, None] * config.tubelet_size + torch.arange(config.tubelet_size)).flatten()
    pixels = patches_to_frames(
        patches, target_ids, frames[places], config.tubelet_size, config.patch_shape, config.norm_pix_loss
    )
    frames[places] = to_uint8(pixels)
    return frames


class ClipView(NamedTuple):
    """A clip of a video, and what a model does with it."""

    numbers: np.ndarray  # int64 (T,), the video's frames
    frames: Tensor  # uint8 (T, C, H, W) to draw: what the model sees, or a sharper version of it
    looks: dict[str, ClipTokens]  # by token selection; the model's own alone, unless several are compared
    gmacs: dict[str, float]  # of the model with each selection

    def heading(self, keep_ratio: float) -> str:
        """What holds for the whole picture; of several selections each has its own cost and answer."""
        if len(self.looks) > 1:
            return f"keep ratio {keep_ratio:.3g}"
        ((name, look),) = self.looks.items()
        return f"keep ratio {keep_ratio:.3g}, {self.gmacs[name]:.3g} GMACs, {1000 * look.seconds:.0f} ms a clip"


def view_of(model: VideoMSPreTrainedModel, clip: Tensor) -> ClipView:
    """What a model does with one of its inputs, (T, C, H, W)."""
    config, name = model.config, model.config.token_selection
    frames = frames_from_pixel_values(clip, config.image_mean, config.image_std)
    (look,) = clip_tokens(model, clip[None])
    return ClipView(np.arange(len(clip)), frames, {name: look}, {name: _gmacs(model, clip.shape, name)})


def clip_rows(view: ClipView, tubelet_size: int, names: Sequence[str] = ROWS, frame_width: int | None = None):
    """The rows `names` of a clip, as far as its model has them; `frame_width` is for animations.

    Several token selections have a row of tokens each, with their answers.
    """
    first = next(iter(view.looks.values()))
    patch = view.frames.shape[2] // first.grid[1], view.frames.shape[3] // first.grid[2]
    layout = ClipLayout(view.frames, tubelet_size, patch, frame_width)
    rows = [layout.clip_row()] if "clip" in names else []
    rows += [layout.importance_row(first.importance)] if "importance" in names else []
    is_one = len(view.looks) == 1
    for name, look in view.looks.items():
        title = ", ".join(filter(None, [name.capitalize(), f"{view.gmacs[name]:.3g} GMACs", look.answer]))
        has_roles = bool(look.target.any())
        tokens = [layout.kept_row(look.kept)] if "kept" in names and (is_one or not has_roles) else []
        tokens += [layout.roles_row(look.visible, look.target)] if "roles" in names and has_roles else []
        rows += tokens if is_one else [row._replace(caption=title) for row in tokens]
        if "reconstruction" in names and look.restored is not None:
            title = "Reconstruction" if is_one else f"{name.capitalize()}: reconstruction"
            rows.append(layout.reconstruction_row(look.restored, look.visible, look.target, title))
    if not rows:
        raise ValueError(f"rows are {', '.join(names)}, which this model does not have; add clip or importance")
    return rows


def selection_strip(view: ClipView, tubelet_size: int, width: int) -> Row | None:
    """The timeline of frame selection, `width` pixels wide; `None` without frame selection."""
    chosen = next(iter(view.looks.values())).chosen
    return None if chosen.all() else frame_selection_row(view.frames[::tubelet_size], chosen.tolist(), width)


def draw_clip(view: ClipView, tubelet_size: int, title: str, names: Sequence[str] = ROWS) -> Image.Image:
    """A still of up to 8 frames of a clip: the rows `names`, and the timeline of frame selection."""
    rows = clip_rows(view, tubelet_size, names)
    strip = selection_strip(view, tubelet_size, rows[0].width) if "frames" in names else None
    return draw_rows(rows if strip is None else [*rows, strip], title)


def animate_clips(
    windows: Iterable[list[ClipView]], tubelet_size: int, fps: float, keep_ratio: float, names: Sequence[str] = ROWS
) -> Iterator[np.ndarray]:
    """Pictures uint8 (H, W, 3) of every frame of [`view_windows`], in order: the rows `names` as panels.

    The heading has keep ratio, cost, the model's answer and the place in the video.
    """
    shown = -1
    for window in windows:
        panels = []
        for view in window:
            rows = clip_rows(view, tubelet_size, names, PANEL_WIDTH)
            total = Panels(rows).blank.width - 2 * MARGIN
            panels.append(Panels(rows, selection_strip(view, tubelet_size, total) if "frames" in names else None))
        order = sorted((number, p, i) for p, view in enumerate(window) for i, number in enumerate(view.numbers))
        for number, p, i in order:
            if number > shown:  # the last window may begin within the one before
                shown, looks = number, list(window[p].looks.values())
                right = f"{looks[0].answer if len(looks) == 1 else ''}   {number / fps:.2f} s"
                yield panels[p].draw(i, window[p].heading(keep_ratio), right, i // tubelet_size)


def view_windows(
    video: VideoReader,
    windows: Sequence[np.ndarray],
    model: VideoMSPreTrainedModel,
    processor: VideoMSVideoProcessor,
    selections: Sequence[str] = (),
    size: tuple[int, int] | None = None,
) -> Iterator[list[ClipView]]:
    """Yields the clips of each of [`clip_windows`].

    Args:
        selections: token selections to compare, by default the model's own.
        size: height and width to which whole frames are resized, instead of the processor's resizing and cropping.
    """
    options = {"do_sample_frames": False, "num_segments": 1, "num_crops": 1, "return_tensors": "pt"}
    sizes = {"size": dict(processor.size), "crop_size": dict(processor.crop_size)}
    if size is not None:
        sizes = {"size": {"height": size[0], "width": size[1]}}
        options["do_center_crop"] = False
    names, gmacs = selections or [model.config.token_selection], {}
    for numbers in windows:
        frames = video.frames(numbers.reshape(-1))
        clips = processor(frames, **options, **sizes).pixel_values[0].unflatten(0, numbers.shape)
        shortest = min(clips.shape[-2:])
        sharper = max(min(-(-SHARP // shortest), min(frames.shape[2:]) // shortest), 1)  # whole pixels per patch
        larger = {name: {side: sharper * n for side, n in part.items()} for name, part in sizes.items() if part}
        shown = processor(frames, **options, **larger, do_normalize=False, do_rescale=False).pixel_values[0]
        shown = shown.round().clamp(0, 255).to(torch.uint8).unflatten(0, numbers.shape)
        gmacs = gmacs or {name: _gmacs(model, clips.shape[1:], name) for name in names}
        looks = {name: clip_tokens(model, clips, name) for name in names}
        each = [dict(zip(looks, found, strict=True)) for found in zip(*looks.values(), strict=True)]
        yield [ClipView(*parts, gmacs) for parts in zip(numbers, shown, each, strict=True)]


def _gmacs(model: VideoMSPreTrainedModel, clip_shape: Sequence[int], selection: str) -> float:
    with changed_config(model.config, token_selection=selection):
        return model.flops(tuple(clip_shape)) / 1e9


@contextlib.contextmanager
def changed_config(config: VideoMSConfig, **fields) -> Iterator[None]:
    """Within this context `fields` replace those of the configuration, except where they are `None`."""
    before = {name: getattr(config, name) for name in fields}
    try:
        for name, value in fields.items():
            setattr(config, name, before[name] if value is None else value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def clip_windows(video_length: int, num_frames: int, stride: int) -> list[np.ndarray]:
    """Windows that cover a video, each of `stride` clips whose frames are interleaved: int64 (stride, num_frames).

    So every frame of the video is in a clip at this stride, and is shown with its own tokens. The last window ends
    with the video. A video that is too short has a smaller stride, then repeats its last frame: 10 frames, 4 at stride
    2 -> [[0 2 4 6], [1 3 5 7]] and [[2 4 6 8], [3 5 7 9]].
    """
    stride = max(min(stride, video_length // num_frames), 1)
    clips = np.arange(stride)[:, None] + stride * np.arange(num_frames)
    last = max(video_length - clips.size, 0)
    starts = dict.fromkeys([*range(0, last + 1, clips.size), last])
    return [np.minimum(start + clips, video_length - 1) for start in starts]


@redraws
def usable_length(video: VideoReader) -> int:
    """Frames of a video whose ends can be decoded; `VideoDecodeError` if it is not a video."""
    ends = [0, len(video) - 1]
    check_usable(video, ends)
    video.frames(ends)
    return len(video)


class MotionSummary(NamedTuple):
    """How motion is spread over a video, and how much of it the kept tokens have."""

    seconds: np.ndarray  # (S,) times of the time steps, ascending
    over_time: np.ndarray  # (S,) mean importance of each time step's tokens
    over_space: np.ndarray  # (h, w) share of all motion at each place; the sum is 1
    ratios: np.ndarray  # (R,) keep ratios, ascending, to 1
    kept_motion: np.ndarray  # (R,) share of all motion in the tokens that each ratio keeps in each clip

    def ratio_for(self, share: float) -> float:
        """The smallest of the keep ratios whose tokens hold `share` of all motion."""
        return float(self.ratios[np.argmax(self.kept_motion >= share - 1e-9)])


def motion_summary(maps: Sequence[Tensor], seconds: Sequence[np.ndarray], num_ratios: int = 100) -> MotionSummary:
    """Summary of clips: importance of each, (t, h, w), and the seconds of its time steps in the video, (t,)."""
    importance = np.stack([np.asarray(clip, dtype=np.float64) for clip in maps])
    # The last clip of a video may overlap the one before it: what it shows again is averaged.
    times, place, count = np.unique(np.concatenate(seconds), return_inverse=True, return_counts=True)
    total = importance.sum() or 1.0
    ratios = np.arange(1, num_ratios + 1) / num_ratios
    tokens = -np.sort(-importance.reshape(len(importance), -1), axis=1)  # most important first
    held = np.pad(tokens.cumsum(axis=1).sum(axis=0), (1, 0)) / total
    return MotionSummary(
        times,
        np.bincount(place, importance.mean(axis=(2, 3)).reshape(-1)) / count,
        importance.sum(axis=(0, 1)) / total,
        ratios,
        held[[floor_share(ratio, tokens.shape[1]) for ratio in ratios]],
    )


def describe_motion(summary: MotionSummary) -> str:
    """The summary in lines of text."""
    parts = [part.mean() for part in np.array_split(summary.over_time, min(32, len(summary.over_time)))]
    heights = "".join(" .:-=+*#%@"[int(9 * part / (max(parts) or 1))] for part in parts)
    lines = [
        "Motion over time (each character: the mean of a part, of the highest)",
        f"  {summary.seconds[0]:.1f} s |{heights}| {summary.seconds[-1]:.1f} s",
        "Motion over the picture (shares of the total)",
    ]
    for rows in np.array_split(summary.over_space, min(3, len(summary.over_space))):
        shares = [part.sum() for part in np.array_split(rows, min(3, rows.shape[1]), axis=1)]
        lines.append("  " + "".join(f"{share:7.0%}" for share in shares))
    shown = [int(i) for i in np.linspace(0, len(summary.ratios), 11)[1:] - 1]
    lines.append("Share of the total motion that the kept tokens hold")
    lines.append("  keep ratio" + "".join(f"{summary.ratios[i]:6.2g}" for i in shown))
    lines.append("  motion    " + "".join(f"{summary.kept_motion[i]:6.0%}" for i in shown))
    halves = [f"{share:.0%} in {summary.ratio_for(share):.0%}" for share in (0.5, 0.9)]
    return "\n".join([*lines, f"  Of the motion, {' and '.join(halves)} of the tokens"])
