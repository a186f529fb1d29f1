# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""From decoded frames to the model's input: random augmentation, the same for all frames of a clip.

A transform takes frames uint8 (T, 3, H, W) and returns uint8 (T, 3, size, size); [`normalize`] turns a batch into the
model's input on its device, so that a quarter of the bytes is copied. Random numbers come from torch's global
generator, as in torchvision's transforms; [`ClipDataset`] seeds it for each clip. Sizes are in pixels.

Source: the official code's augmentation; its RandAugment, erasing and crop are those of timm and PySlowFast.
"""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import RandomErasing, RandomResizedCrop
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ..configuration_videoms import IMAGENET_MEAN, IMAGENET_STD, VideoMSConfig
from ..reader_videoms import Crop
from ..video_processing_videoms import VideoMSVideoProcessor


RAND_AUGMENT = "rand-m7-n4-mstd0.5-inc1"
MULTI_SCALE_SIDES = (1.0, 0.875, 0.75, 0.66)  # of the shorter side
# Offsets of a crop in quarters of the free space, (down, right): corners, edge middles, centre, quarter points.
CROP_ANCHORS = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)] + [(y, x) for y in (1, 3) for x in (1, 3)]
MIN_CROP_AREA, CROP_ASPECT = 0.08, (3 / 4, 4 / 3)
ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)
# Official code: bicubic, which torchvision lacks for tensors.
SAMPLING = {"interpolation": InterpolationMode.BILINEAR, "fill": [128.0] * 3}


def normalize(frames: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Frames (..., 3, H, W) in 0 to 255 scaled to [0, 1] and normalised by `mean` and `std`, float32."""
    mean, std = (255 * torch.tensor(values, device=frames.device).view(3, 1, 1) for values in (mean, std))
    return frames.to(torch.float32, copy=True, memory_format=torch.contiguous_format).sub_(mean).div_(std)


def pixel_statistics(processor: VideoMSVideoProcessor) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel in a processor's normalisation, for values in [0, 1]: see [`normalize`]."""
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    return tuple([value / scale for value in np.broadcast_to(values, 3).tolist()] for values in (mean, std))


def processor_of(config: VideoMSConfig, frame_stride: int) -> VideoMSVideoProcessor:
    """The processor that goes with a model: its size, frames and normalisation."""
    height, width = config.image_shape
    return VideoMSVideoProcessor(
        size={"shortest_edge": height} if height == width else {"height": height, "width": width},
        crop_size={"height": height, "width": width},
        num_frames=config.num_frames,
        frame_stride=frame_stride,
        candidate_ratio=config.num_candidate_frames / config.num_frames,  # in whole tubelets
        image_mean=list(config.image_mean),
        image_std=list(config.image_std),
    )


class PretrainingTransform:
    """The same multi-scale crop of all frames, resized, without mirroring or colour changes.

    Height and width of the crop are drawn from 1, 0.875, 0.75 and 0.66 of the shorter side, at most one step apart,
    and its place from 13 anchors. It comes first, so readers can do it while decoding: `transform(frames)` is
    `transform.finish` of the part [`~PretrainingTransform.draw_crop`] of the frames.

    Args:
        size: height and width of the result.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, frames: Tensor) -> Tensor:
        return self.finish(frames[(..., *self.draw_crop(*frames.shape[-2:]).slices)])

    def finish(self, frames: Tensor) -> Tensor:
        """Resize frames that are cropped."""
        return frames if frames.shape[-2:] == (self.size, self.size) else _resize(frames, self.size, antialias=True)

    def draw_crop(self, height: int, width: int) -> Crop:
        """A random crop of frames of that size."""
        base = min(height, width)
        sides = [int(base * share) for share in MULTI_SCALE_SIDES]
        # A side less than 3 pixels from the wanted size is that size, if the frame has it.
        sides = [self.size if abs(side - self.size) < 3 and self.size <= base else side for side in sides]
        pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
        crop_height, crop_width = pairs[_draw_index(len(pairs))]
        down, right = CROP_ANCHORS[_draw_index(len(CROP_ANCHORS))]
        top, left = down * ((height - crop_height) // 4), right * ((width - crop_width) // 4)
        return Crop(top, left, crop_height, crop_width)


class FinetuningTransform:
    """RandAugment, random resized crop, mirroring and erasing, each the same for all frames.

    Args:
        size: height and width of the result.
        rand_augment: policy in timm's notation; `None`: none.
        min_crop_area: smallest share of the area of a crop, whose aspect is 3/4 to 4/3, in (0, 1]; 1: the centre crop
            of evaluation.
        flip: mirror half of the clips; false if left and right differ in meaning.
        random_erasing: share of clips in which noise replaces a box of 2 to 33 % of the area, in [0, 1].
        mean, std: statistics of the later normalisation.
    """

    def __init__(
        self,
        size: int,
        rand_augment: str | None = RAND_AUGMENT,
        min_crop_area: float = MIN_CROP_AREA,
        flip: bool = True,
        random_erasing: float = 0.25,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        if not 0 <= random_erasing <= 1:
            raise ValueError(f"random_erasing is {random_erasing}; it must be a probability, in [0, 1]")
        if not 0 < min_crop_area <= 1:
            raise ValueError(f"min_crop_area is {min_crop_area}; it must be a share of the frame, in (0, 1]")
        self.size, self.min_crop_area, self.flip, self.random_erasing = size, min_crop_area, flip, random_erasing
        self.statistics = mean, std
        self.rand_augment = None if rand_augment is None else RandAugment(rand_augment)
        self.centre_crop = EvaluationTransform(size) if min_crop_area == 1 else None

    def __call__(self, frames: Tensor) -> Tensor:
        if self.rand_augment is not None:
            frames = self.rand_augment(frames)
        if self.centre_crop is not None:
            frames = self.centre_crop(frames)
        else:
            box = RandomResizedCrop.get_params(frames, (self.min_crop_area, 1.0), CROP_ASPECT)
            # Official code: crops and resizes after normalisation. That differs by rounding only (at most a level of
            # 255) and takes five times as long. It does not antialias, so we do not.
            frames = _resize(tv.crop(frames, *box), self.size, antialias=False)
        if self.flip and torch.rand(()) < 0.5:
            frames = frames.flip(-1)
        return erase_box(frames, *self.statistics) if torch.rand(()) < self.random_erasing else frames


class EvaluationTransform:
    """Resize the shorter side to `size`, then crop, as `processor` (by default ours) does before it normalises.

    With several crops, spaced along the longer side, the result is (num_crops, T, 3, size, size).
    """

    def __init__(self, size: int, num_crops: int = 1, processor: VideoMSVideoProcessor | None = None):
        self.processor = VideoMSVideoProcessor() if processor is None else processor
        sides = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
        off = dict.fromkeys(("do_sample_frames", "do_rescale", "do_normalize"), False)
        self.options = {**sides, **off, "num_crops": num_crops}

    def __call__(self, frames: Tensor) -> Tensor:
        return self.processor(frames, return_tensors="pt", **self.options)["pixel_values"][0]


class RandAugment:
    """timm's RandAugment with the increasing operations: frames uint8 (T, 3, H, W) in and out.

    `num_ops` operations are drawn with replacement; each is applied to all frames with probability 0.5, and its
    strength is normal around `magnitude` with deviation `magnitude_std`, on a scale from 0 to 10. `policy` gives these
    in timm's notation, such as rand-m7-n4-mstd0.5-inc1.
    """

    def __init__(self, policy: str):
        match = re.fullmatch(r"rand-m(10(?:\.0+)?|\d(?:\.\d+)?)-n([1-9]\d*)(?:-mstd(\d+(?:\.\d+)?))?-inc1", policy)
        if match is None:
            raise ValueError(
                f"the RandAugment policy is {policy!r}; it must be like {RAND_AUGMENT!r}: m and the magnitude, 0 to "
                "10, n and the number of operations, mstd and the deviation, inc1 for the increasing operations"
            )
        magnitude, num_ops, magnitude_std = match.groups(default="0")
        self.magnitude, self.num_ops, self.magnitude_std = float(magnitude), int(num_ops), float(magnitude_std)

    def __call__(self, frames: Tensor) -> Tensor:
        for _ in range(self.num_ops):
            operation = OPERATIONS[_draw_index(len(OPERATIONS))]
            if torch.rand(()) < 0.5:
                magnitude = self.magnitude + self.magnitude_std * torch.randn(()).item()
                frames = operation(frames, min(max(magnitude, 0.0), 10.0) / 10)
        return frames


# Operations of RandAugment: frames uint8 (T, 3, H, W) and a strength in [0, 1] to frames. Those that depend on the
# image (equalize, contrast) work frame by frame, as in the official code.


def _signed(strength: float) -> float:
    return strength if torch.rand(()) < 0.5 else -strength


def _enhance(adjust: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """The operation that multiplies a property by 0.1 to 1.9: the stronger, the further from 1."""
    return lambda frames, strength: adjust(frames, 1 + _signed(0.9 * strength))


def _warp(frames: Tensor, shear: tuple[float, float] = (0, 0), shift: tuple[float, float] = (0, 0)) -> Tensor:
    """Sheared (tangents in x and y) and shifted (shares of width and height), with grey borders."""
    height, width = frames.shape[-2:]
    degrees, pixels = [math.degrees(math.atan(tangent)) for tangent in shear], [shift[0] * width, shift[1] * height]
    return tv.affine(frames, 0.0, pixels, 1.0, degrees, center=[0.0, 0.0], **SAMPLING)


def _rotate(frames: Tensor, strength: float) -> Tensor:
    return tv.rotate(frames, _signed(30 * strength), **SAMPLING)


def _solarize(frames: Tensor, strength: float) -> Tensor:
    # int16, because 256 is 0 in uint8.
    return torch.where(frames.to(torch.int16) >= 256 - int(256 * strength), 255 - frames, frames)


def _solarize_add(frames: Tensor, strength: float) -> Tensor:
    return torch.where(frames < 128, (frames.to(torch.int16) + int(110 * strength)).clamp_(max=255), frames).byte()


OPERATIONS: list[Callable[[Tensor, float], Tensor]] = [
    lambda frames, strength: tv.autocontrast(frames),
    lambda frames, strength: tv.equalize(frames),
    lambda frames, strength: tv.invert(frames),
    _rotate,
    lambda frames, strength: tv.posterize(frames, 4 - int(4 * strength)),
    _solarize,
    _solarize_add,
    _enhance(tv.adjust_saturation),
    _enhance(tv.adjust_contrast),
    _enhance(tv.adjust_brightness),
    _enhance(tv.adjust_sharpness),
    lambda frames, strength: _warp(frames, shear=(_signed(0.3 * strength), 0)),
    lambda frames, strength: _warp(frames, shear=(0, _signed(0.3 * strength))),
    lambda frames, strength: _warp(frames, shift=(_signed(0.45 * strength), 0)),
    lambda frames, strength: _warp(frames, shift=(0, _signed(0.45 * strength))),
]


def erase_box(frames: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Frames uint8 (T, 3, H, W) with noise in the same random box; normal after normalisation by `mean` and `std`."""
    top, left, height, width, _ = RandomErasing.get_params(frames, ERASED_AREA, ERASED_ASPECT, value=[0.0])
    if (height, width) == tuple(frames.shape[-2:]):  # torchvision found no box
        return frames
    noise = torch.randn(*frames.shape[:-2], height, width)
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    frames = frames.clone()
    # Official code: noise beyond black and white too, 3 % of the values.
    frames[..., top : top + height, left : left + width] = noise.mul_(std).add_(mean).round_().clamp_(0, 255).byte()
    return frames


def _resize(frames: Tensor, size: int, antialias: bool) -> Tensor:
    # The decoder returns channels-last frames, and uint8 resizes several times faster so.
    frames = frames.contiguous(memory_format=torch.channels_last)
    return F.interpolate(frames, (size, size), mode="bilinear", antialias=antialias)


def _draw_index(count: int) -> int:
    return int(torch.randint(count, ()))
