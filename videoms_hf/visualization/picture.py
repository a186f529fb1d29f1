# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of clips and tokens: rows of frames for stills, panels that show a frame of every row for animations.

T frames, C channels (1 or 3), N tokens of the clip in raster order: (time, row, column), time slowest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


PICTURE_WIDTH = 1200
MIN_COLUMNS, MAX_COLUMNS, MAX_FRAME_WIDTH, MIN_TOKEN_WIDTH = 3, 8, 400, 13
MARGIN, GAP, CAPTION_HEIGHT = 16, 6, 40
FONT = ImageFont.load_default(19)
SWATCH, SPACE, HEAT_BAR = 16, 8, 120  # of legends
PAPER, INK = (255, 255, 255), (32, 36, 44)
VISIBLE_COLOR, TARGET_COLOR, DROPPED_COLOR = (255, 168, 0), (52, 120, 246), (72, 72, 72)
# Dark violet, magenta, orange, pale yellow: brightness grows evenly, so it is readable in greyscale.
HEAT_COLORS = np.array(
    [(8, 5, 30), (66, 15, 117), (140, 41, 129), (212, 72, 104), (252, 137, 97), (254, 203, 138), (252, 250, 200)]
)


class Row(NamedTuple):
    """One row of a picture."""

    caption: str
    frames: Sequence[np.ndarray]  # uint8 (height, width, 3) each, of one size within the row
    legend: Sequence[tuple[str, tuple[int, int, int]]] = ()  # names and colours, right of the caption
    heat_ends: tuple[str, str] | None = None  # names of the ends of the heat colours, right of the caption

    @property
    def width(self) -> int:
        """Pixels of its frames next to each other."""
        return len(self.frames) * (self.frames[0].shape[1] + GAP) - GAP


class ClipLayout:
    """Which frames of a clip are shown, their size, and the places of tokens on them.

    There are 3 to 8 columns, fewer for frames of many tokens: every frame of a short clip, the first frame of each
    tubelet of a longer one, or of evenly spaced tubelets.

    Args:
        frames: uint8 (T, C, H, W) of one clip.
        patch_size: one number, or height and width.
        frame_width: show every frame, about this many pixels wide.
    """

    def __init__(
        self, frames: Tensor, tubelet_size: int, patch_size: int | Sequence[int], frame_width: int | None = None
    ):
        if frames.ndim != 4 or frames.shape[1] not in (1, 3) or frames.dtype != torch.uint8 or 0 in frames.shape:
            raise ValueError(
                f"frames are {frames.dtype} with the shape {tuple(frames.shape)}; they must be torch.uint8 "
                "(frames, channels, height, width) of one clip with 1 or 3 channels"
            )
        self.frames, self.tubelet_size = frames.detach().cpu(), tubelet_size
        self.grid, patch_shape = clip_grid(frames.shape, tubelet_size, patch_size)
        self.num_tokens = self.grid[0] * self.grid[1] * self.grid[2]

        inner_width = PICTURE_WIDTH - 2 * MARGIN
        num_columns = min(max((inner_width + GAP) // (MIN_TOKEN_WIDTH * self.grid[2] + GAP), MIN_COLUMNS), MAX_COLUMNS)
        if frame_width is not None or len(frames) <= num_columns:
            self.shown_frames = list(range(len(frames)))
        else:
            num_columns = min(num_columns, self.grid[0])
            self.shown_frames = [self.grid[0] * i // num_columns * tubelet_size for i in range(num_columns)]
        width = frame_width or min((inner_width + GAP) // len(self.shown_frames) - GAP, MAX_FRAME_WIDTH)
        # Whole pixels per patch: all tokens have the same size and sharp edges.
        columns = max(1, round(width / self.grid[2]))
        self.token_shape = (max(1, round(columns * patch_shape[0] / patch_shape[1])), columns)
        self.pictures = self.enlarge(self.frames)

    def enlarge(self, frames: Tensor) -> list[np.ndarray]:
        """The shown frames of uint8 (T, C, H, W), in the picture's size."""
        size = (self.token_shape[1] * self.grid[2], self.token_shape[0] * self.grid[1])
        return [resize(frames[i], size, Image.Resampling.BICUBIC) for i in self.shown_frames]

    def spread(self, values: Tensor) -> list[np.ndarray]:
        """One value per token, (N,), as images (height, width, 1) of the shown frames."""
        steps = values.reshape(self.grid).numpy()
        rows, columns = self.token_shape
        return [steps[i // self.tubelet_size].repeat(rows, 0).repeat(columns, 1)[..., None] for i in self.shown_frames]

    def paint(self, color: tuple[int, int, int], *layers: tuple[Tensor, Sequence[np.ndarray]]) -> list[np.ndarray]:
        """The shown frames, dark and grey but for layers of tokens, bool (N,), and pictures of them.

        The tokens of the last layer are outlined in `color`.
        """
        looks = [dim(picture) for picture in self.pictures]
        for member, pictures in layers:
            masks = self.spread(member)
            looks = [np.where(mask, *pair) for mask, *pair in zip(masks, pictures, looks, strict=True)]
        return [outline(look, mask, color) for look, mask in zip(looks, masks, strict=True)]

    def clip_row(self) -> Row:
        """The clip itself."""
        return Row("Clip", self.pictures)

    def kept_row(self, kept: Tensor) -> Row:
        """The tokens `kept`, bool (N,), in colour, the others dark and grey."""
        looks = self.paint(VISIBLE_COLOR, (kept, self.pictures))
        caption = f"Kept tokens: {int(kept.sum())} of {self.num_tokens} ({kept.float().mean().item():.0%})"
        return Row(caption, looks, [("kept", VISIBLE_COLOR), ("dropped", DROPPED_COLOR)])

    def roles_row(self, visible: Tensor, target: Tensor) -> Row:
        """Pre-training: tokens that are visible, bool (N,), in colour, targets blue, dropped ones dark and grey."""
        blue = [tint(picture, TARGET_COLOR) for picture in self.pictures]
        looks = self.paint(VISIBLE_COLOR, (target, blue), (visible, self.pictures))
        members = {"visible": visible, "target": target, "dropped": ~(visible | target)}
        names = [f"{int(member.sum())} {name}" for name, member in members.items()]
        colors = VISIBLE_COLOR, TARGET_COLOR, DROPPED_COLOR
        return Row("Roles in pre-training", looks, list(zip(names, colors, strict=True)))

    def importance_row(self, importance: Tensor) -> Row:
        """The importance (N,) as a heat map, up to its 99th percentile."""
        if importance.shape != (self.num_tokens,):
            raise ValueError(
                f"importance has the shape {tuple(importance.shape)}; it must be ({self.num_tokens},), a value per "
                "token"
            )
        scores = importance.detach().float().cpu()
        low, high = scores.min(), scores.quantile(0.99)
        scores = ((scores - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)).clamp(0, 1)
        return Row("Motion importance", list(map(heat_color, self.spread(scores))), heat_ends=("still", "moving"))

    def reconstruction_row(self, restored: Tensor, visible: Tensor, target: Tensor, caption: str) -> Row:
        """Targets from `restored`, uint8 (T, C, H, W) of any H x W; visible tokens as they are, dropped ones grey."""
        looks = self.paint(TARGET_COLOR, (visible, self.pictures), (target, self.enlarge(restored)))
        return Row(caption, looks, [("predicted", TARGET_COLOR), ("dropped", DROPPED_COLOR)])


def frame_selection_row(frames: Tensor, chosen: Sequence[bool], width: int) -> Row:
    """A timeline, `width` pixels wide, of a frame of each candidate time step: those chosen in colour, others grey."""
    thumb_width = max((width + GAP) // len(chosen) - GAP, 4)
    size = thumb_width, max(round(thumb_width * frames.shape[2] / frames.shape[3]), 4)
    thumbs = [resize(frame, size, Image.Resampling.BOX) for frame in frames]
    everything = np.ones((*size[::-1], 1), dtype=bool)
    looks = [
        outline(thumb, everything, VISIBLE_COLOR) if is_chosen else dim(thumb)
        for thumb, is_chosen in zip(thumbs, chosen, strict=True)
    ]
    caption = f"Frame selection: {sum(chosen)} of {len(chosen)} time steps"
    return Row(caption, looks, [("chosen", VISIBLE_COLOR), ("rejected", DROPPED_COLOR)])


def clip_grid(
    clip_shape: Sequence[int], tubelet_size: int, patch_size: int | Sequence[int]
) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Tokens of a clip (T, C, H, W) along time, height and width, and the patch's height and width."""
    patch_height, patch_width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    num_frames, _, height, width = clip_shape
    if num_frames % tubelet_size or height % patch_height or width % patch_width:
        raise ValueError(
            f"frames have the shape {tuple(clip_shape)}; a tubelet of {tubelet_size} frames x {patch_height} x "
            f"{patch_width} pixels must divide frames, height and width: give the sizes of the model"
        )
    return (num_frames // tubelet_size, height // patch_height, width // patch_width), (patch_height, patch_width)


def token_members(ids: Tensor, num_tokens: int, name: str) -> Tensor:
    """True for the tokens in `ids` (K,), bool (num_tokens,) on the CPU; `name` is for errors."""
    ids = torch.as_tensor(ids).detach().cpu().long()
    if ids.ndim != 1:
        raise ValueError(f"{name} has the shape {tuple(ids.shape)}; give the ids of one clip, {name}[i]")
    if len(ids) and not (ids.min() >= 0 and ids.max() < num_tokens):
        raise ValueError(
            f"{name} goes from {int(ids.min())} to {int(ids.max())}; a clip of these frames has the tokens 0 to "
            f"{num_tokens - 1}: give the model's frames, tubelet_size and patch_size"
        )
    member = torch.zeros(num_tokens, dtype=torch.bool)
    member[ids] = True
    if int(member.sum()) != len(ids):
        raise ValueError(f"{name} has {len(ids)} ids of which {int(member.sum())} differ; each may occur once")
    return member


def resize(frame: Tensor, size: tuple[int, int], resampling: Image.Resampling) -> np.ndarray:
    """A frame, uint8 (1 or 3, H, W), of `size` (width, height): uint8 (height, width, 3)."""
    pixels = frame.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(pixels).resize(size, resampling))


def dim(frame: np.ndarray) -> np.ndarray:
    """The frame dark and grey, as dropped tokens are shown, uint8 (height, width, 3)."""
    grey = frame.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.repeat((20 + 0.3 * grey)[..., None], 3, axis=2).astype(np.uint8)


def tint(frame: np.ndarray, color: tuple[int, int, int], share: float = 0.7) -> np.ndarray:
    """The frame blended with `share` of `color`, uint8 (height, width, 3)."""
    return (frame * (1 - share) + np.array(color) * share).astype(np.uint8)


def outline(frame: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """The frame with a line of 2 pixels inside the edge of `mask` (height, width, 1), uint8 (height, width, 3)."""
    inner = np.pad(mask[..., 0], 2)
    inner = inner[:-4, 2:-2] & inner[4:, 2:-2] & inner[2:-2, :-4] & inner[2:-2, 4:]
    return np.where(mask & ~inner[..., None], np.array(color, dtype=np.uint8), frame)


def heat_color(values: np.ndarray) -> np.ndarray:
    """Colours of values in [0, 1], from (height, width, 1) to uint8 (height, width, 3)."""
    stops = np.linspace(0, 1, len(HEAT_COLORS))
    return np.concatenate([np.interp(values, stops, HEAT_COLORS[:, i]) for i in range(3)], axis=2).astype(np.uint8)


def draw_rows(rows: Sequence[Row], title: str = "") -> Image.Image:
    """The rows below each other on white, with captions above, and a title above all."""
    # A short clip may be narrower than its captions.
    captions = [FONT.getlength(row.caption) + 4 * SPACE + _legend_width(row) for row in rows]
    inner_width = max(*(row.width for row in rows), *map(int, captions), int(FONT.getlength(title)))
    heights = [CAPTION_HEIGHT + row.frames[0].shape[0] + GAP for row in rows]
    y = MARGIN - 8 + (CAPTION_HEIGHT if title else 0)  # captions include some space
    picture = Image.new("RGB", (2 * MARGIN + inner_width, y + sum(heights) - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, y - CAPTION_HEIGHT // 2), title, INK, FONT, anchor="lm")
    for row, height in zip(rows, heights, strict=True):
        draw.text((MARGIN, y + CAPTION_HEIGHT // 2), row.caption, INK, FONT, anchor="lm")
        _draw_legend(draw, row, picture.width - MARGIN, y + CAPTION_HEIGHT // 2)
        _paste(picture, row.frames, MARGIN, y + CAPTION_HEIGHT)
        y += height
    return picture


class Panels:
    """One frame of every row at a time, in up to three columns, between a heading and a strip below; for animations.

    Captions are above a panel and legends below it. All rows have frames of one size, and equally many.
    """

    def __init__(self, rows: Sequence[Row], strip: Row | None = None, has_heading: bool = True):
        self.rows, self.strip = rows, strip
        height, width = rows[0].frames[0].shape[:2]
        num_columns = len(rows) if len(rows) <= 3 else -(-len(rows) // 2)
        cell = max(width, *(int(_legend_width(row)) for row in rows))
        below = CAPTION_HEIGHT if any(row.legend or row.heat_ends for row in rows) else GAP
        places = [divmod(i, num_columns) for i in range(len(rows))]
        pitch = CAPTION_HEIGHT + height + below
        top = CAPTION_HEIGHT if has_heading else 0
        self.places = [(MARGIN + x * (cell + MARGIN), top + CAPTION_HEIGHT + y * pitch) for y, x in places]
        size = (MARGIN + num_columns * (cell + MARGIN), top + pitch * (places[-1][0] + 1))
        if strip is not None:
            self.strip_place = MARGIN, size[1] + CAPTION_HEIGHT
            size = max(size[0], strip.width + 2 * MARGIN), self.strip_place[1] + strip.frames[0].shape[0] + GAP
        self.blank = Image.new("RGB", (size[0], size[1] + GAP), PAPER)
        draw = ImageDraw.Draw(self.blank)
        for row, (x, y) in zip(rows, self.places, strict=True):
            caption = row.caption
            while FONT.getlength(caption) > cell:
                caption = f"{caption.removesuffix(' ...')[:-1]} ..."
            draw.text((x, y - CAPTION_HEIGHT // 2), caption, INK, FONT, anchor="lm")
            right = x + _legend_width(row) - (2 * SPACE if row.legend else 0)
            _draw_legend(draw, row, int(right), y + height + below // 2)
        if strip is not None:
            x, y = self.strip_place
            draw.text((x, y - CAPTION_HEIGHT // 2), strip.caption, INK, FONT, anchor="lm")
            _draw_legend(draw, strip, size[0] - MARGIN, y - CAPTION_HEIGHT // 2)
            _paste(self.blank, strip.frames, x, y)

    def draw(self, frame: int, left: str = "", right: str = "", strip_part: int = 0) -> np.ndarray:
        """The picture of one frame, uint8 (height, width, 3), headed by two texts; the strip marks its part."""
        picture = self.blank.copy()
        draw = ImageDraw.Draw(picture)
        draw.text((MARGIN, MARGIN + 4), left, INK, FONT, anchor="lm")
        draw.text((picture.width - MARGIN, MARGIN + 4), right, INK, FONT, anchor="rm")
        for row, place in zip(self.rows, self.places, strict=True):
            _paste(picture, [row.frames[frame]], *place)
        if self.strip is not None:
            x, y = self.strip_place
            height, width = self.strip.frames[0].shape[:2]
            x += strip_part * (width + GAP)
            draw.rectangle([x, y + height + 1, x + width - 1, y + height + 5], fill=INK)
        return np.asarray(picture)


def _paste(picture: Image.Image, frames: Sequence[np.ndarray], x: int, y: int) -> None:
    for column, frame in enumerate(frames):
        picture.paste(Image.fromarray(frame), (x + column * (frame.shape[1] + GAP), y))


def _legend_width(row: Row) -> float:
    width = sum(FONT.getlength(name) + SWATCH + 3 * SPACE for name, _ in row.legend)
    return width + (sum(map(FONT.getlength, row.heat_ends)) + HEAT_BAR + 2 * SPACE if row.heat_ends else 0)


def _draw_legend(draw: ImageDraw.ImageDraw, row: Row, right: int, middle: int) -> None:
    x = right - _legend_width(row) + (2 * SPACE if row.legend else 0)
    top, bottom = middle - SWATCH // 2, middle + SWATCH // 2
    for name, color in row.legend:
        draw.rectangle([x, top, x + SWATCH, bottom], fill=color)
        draw.text((x + SWATCH + SPACE, middle), name, INK, FONT, anchor="lm")
        x += SWATCH + 3 * SPACE + FONT.getlength(name)
    if row.heat_ends:
        low, high = row.heat_ends
        draw.text((x, middle), low, INK, FONT, anchor="lm")
        x += FONT.getlength(low) + SPACE
        for i, color in enumerate(heat_color(np.linspace(0, 1, HEAT_BAR)[None, :, None])[0]):
            draw.line([x + i, top, x + i, bottom], fill=tuple(color.tolist()))
        draw.text((x + HEAT_BAR + SPACE, middle), high, INK, FONT, anchor="lm")
