# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""VideoMSVideoProcessor: files or frames in, normalised clips out, without randomness.

Shorter side to 224 (bilinear), centre crop, ImageNet normalisation, as the official code's evaluation. Files are
decoded by PyAV, so that nothing needs torchcodec.
"""

import inspect
import json
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.utils import IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .configuration_videoms import IMAGENET_MEAN, IMAGENET_STD
from .decoding_videoms import FileReader, VideoDecodeError
from .inputs_videoms import ONE_FRAME, list_videos, to_8_bits
from .reader_videoms import VideoReader, redraws
from .sampling_videoms import segment_clip, uniform_clip, validation_clip


class VideoMSVideoProcessorKwargs(VideosKwargs, total=False):
    """What [`VideoMSVideoProcessor`] takes besides the usual options.

    Args:
        frame_stride: frames from one sampled frame to the next; `None` spreads them evenly over the whole video.
        num_segments: temporal positions of the views of one video, from its beginning to its end; one is the middle.
        num_crops: crops of each position, spaced along the longer side; one is the centre.
        candidate_ratio: this many times `num_frames` are sampled, for a model with frame selection.
    """

    frame_stride: int | None
    num_segments: int
    num_crops: int
    candidate_ratio: float | int


class VideoMSVideoProcessor(BaseVideoProcessor):
    """Turns videos into `pixel_values` (batch, frames, channels, height, width).

    A video is a path, an http address, bytes, an open file, a row of a `datasets` video column (`{"path", "bytes"}`),
    an array or tensor of frames (T, H, W, C) or (T, C, H, W), or a list of frames: PIL images of any mode or arrays.
    A list of videos is a batch. Frames are numbers in [0, 255], or floats in [0, 1], which are rounded to uint8; alpha
    is dropped. With `do_rescale` off, values are taken as they are.

    Of files, `num_frames` are sampled over the whole video (a shorter one repeats its last frame). Given frames are
    taken as they are unless `do_sample_frames` is set, as pipelines do; then more than needed count as a whole video,
    and exactly as many as a clip. With several segments or crops, one video gives several views, segment by segment:
    (batch, views, frames, channels, height, width); [`VideoMSForVideoClassification`] averages their scores.

    A pipeline's `frame_sampling_rate` is the stride. For views, give it a processor that has them:
    `pipeline(..., video_processor=AutoVideoProcessor.from_pretrained(folder, num_segments=5, num_crops=3))`.

    Raises:
        VideoDecodeError: a file cannot be decoded, or has a single frame; the message names it and says why.
        ValueError: more frames are asked for than were given, what was given is not a video, or options do not fit.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = list(IMAGENET_MEAN)
    image_std = list(IMAGENET_STD)
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = False
    num_frames = 16
    frame_stride = None
    num_segments = 1
    num_crops = 1
    candidate_ratio = 1.0
    valid_kwargs = VideoMSVideoProcessorKwargs
    model_input_names = ["pixel_values"]

    def preprocess(self, videos, **kwargs: Unpack[VideoMSVideoProcessorKwargs]) -> BatchFeature:
        layout = kwargs.pop("input_data_format", None) or self.input_data_format
        to_rgb = kwargs.get("do_convert_rgb", self.do_convert_rgb)
        channels_last = layout and ChannelDimension(layout) == ChannelDimension.LAST
        videos = [videos] if isinstance(videos, VideoReader) else list_videos(videos, channels_last, to_rgb)
        are_frames = {isinstance(video, torch.Tensor) for video in videos}
        if len(are_frames) > 1:
            raise ValueError("files and frames were given in one list; give them in two calls")
        if False in are_frames:
            kwargs.setdefault("do_sample_frames", True)
        elif kwargs.get("do_rescale", self.do_rescale) and (
            kwargs.get("rescale_factor", self.rescale_factor) == type(self).rescale_factor
        ):
            videos = [to_8_bits(video) for video in videos]
        if (options := _pipeline_options()) is not None:
            if len(videos) > 1:
                raise ValueError(f"{len(videos)} videos were given as one; a pipeline takes several as a list")
            if "frame_sampling_rate" in options:
                kwargs["frame_stride"] = options["frame_sampling_rate"]
        for name in ("num_frames", "frame_stride", "num_segments", "num_crops", "candidate_ratio"):
            value = kwargs.get(name, getattr(self, name))
            if isinstance(value, int | float) and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        return_tensors = kwargs.pop("return_tensors", None)
        batch = super().preprocess(videos, input_data_format=ChannelDimension.FIRST, **kwargs)
        clips = batch.pop("pixel_values_videos")
        sampled = kwargs.get("do_sample_frames", self.do_sample_frames)
        num_segments = kwargs.get("num_segments", self.num_segments) if sampled else 1
        if num_segments * kwargs.get("num_crops", self.num_crops) > 1:
            # (crops, segments * T, C, H, W) -> (segments * crops, T, C, H, W)
            clips = [clip if clip.ndim == 5 else clip[None] for clip in clips]
            clips = [clip.unflatten(1, (num_segments, -1)).transpose(0, 1).flatten(0, 1) for clip in clips]
        return BatchFeature(data={"pixel_values": clips, **batch}, tensor_type=return_tensors)

    def sample_frames(
        self, metadata, num_frames=None, fps=None, frame_stride=None, num_segments=None, candidate_ratio=None, **kwargs
    ) -> np.ndarray:
        """Indices of the frames to use, int64 (num_segments * num_frames,), segment by segment.

        With `fps` they are as many a second, at least one, spread evenly over the whole video.
        """
        total = metadata.total_num_frames
        num_segments = self.num_segments if num_segments is None else num_segments
        if fps is not None:
            if num_frames not in (None, self.num_frames):  # the default gives way
                raise ValueError(f"num_frames is {num_frames} and fps is {fps}; only one of them can be given")
            if num_segments > 1:
                raise ValueError("fps is given, so a clip is the whole video, and num_segments must be 1")
            if metadata.fps is None:
                raise ValueError(f"fps is {fps}, but the video's own rate is not known; give it in video_metadata")
            return uniform_clip(total, min(max(int(total / metadata.fps * fps), 1), total))
        ratio = self.candidate_ratio if candidate_ratio is None else candidate_ratio
        num_frames = math.ceil((self.num_frames if num_frames is None else num_frames) * ratio - 1e-6)
        if metadata.video_backend is None and num_frames > total:
            raise ValueError(
                f"{num_frames} frames are to be sampled from a video given as {total} frames; give more frames or a "
                "smaller num_frames"
            )
        if metadata.video_backend is None and num_frames == total:  # frames that are given, and are a clip already
            return np.tile(np.arange(total), num_segments)
        if frame_stride is None:
            return uniform_clip(total, num_frames * num_segments).reshape(num_frames, num_segments).T.reshape(-1)
        if num_segments == 1:
            return validation_clip(total, num_frames, frame_stride)
        clips = [segment_clip(total, num_frames, frame_stride, i, num_segments) for i in range(num_segments)]
        return np.concatenate(clips)

    def fetch_videos(self, video_url_or_urls, sample_indices_fn=None):
        """Frames uint8 (T, C, H, W) and metadata of a path, address, bytes, open file or `VideoReader`, or a list."""
        if isinstance(video_url_or_urls, (list, tuple)):
            return list(zip(*[self.fetch_videos(url, sample_indices_fn) for url in video_url_or_urls], strict=True))
        given = video_url_or_urls
        with nullcontext(given) if isinstance(given, VideoReader) else FileReader(given) as video:
            return self._read_video(video, sample_indices_fn)

    @staticmethod
    @redraws
    def _read_video(video: VideoReader, sample_indices_fn) -> tuple[torch.Tensor, VideoMetadata]:
        info = video.info
        if info.num_frames < 2:
            raise VideoDecodeError(video.name, ONE_FRAME)
        size = info.width, info.height
        metadata = VideoMetadata(info.num_frames, info.fps or None, *size, info.duration_seconds, "pyav")
        indices = np.arange(info.num_frames) if sample_indices_fn is None else sample_indices_fn(metadata=metadata)
        metadata.frames_indices = indices
        return video.frames(indices), metadata

    def _decode_and_sample_videos(self, videos, video_metadata, do_sample_frames=None, sample_indices_fn=None):
        """As in the base class, which decodes paths only."""
        if not isinstance(videos[0], torch.Tensor):
            return self.fetch_videos(videos, sample_indices_fn)
        return super()._decode_and_sample_videos(videos, video_metadata, do_sample_frames, sample_indices_fn)

    def to_json_file(self, json_file_path):
        """Writes the options, and next to a model's file one by which `AutoImageProcessor` finds this class too.

        Tutorials of VideoMAE load that, and pipelines make batches only where it loads.
        """
        super().to_json_file(json_file_path)
        path = Path(json_file_path)
        if path.name == VIDEO_PROCESSOR_NAME:
            pointer = dict.fromkeys(("image_processor_type", "feature_extractor_type"), type(self).__name__)
            if code := (getattr(self, "auto_map", None) or {}).get("AutoVideoProcessor"):
                pointer["auto_map"] = dict.fromkeys(("AutoImageProcessor", "AutoFeatureExtractor"), code)
            path.with_name(IMAGE_PROCESSOR_NAME).write_text(json.dumps(pointer, indent=2) + "\n", encoding="utf-8")

    def _preprocess(self, videos: list[torch.Tensor], num_crops: int = 1, **kwargs) -> BatchFeature:
        """The usual steps; with several crops each result is (crops, frames, channels, height, width)."""
        if num_crops == 1:
            return super()._preprocess(videos, **kwargs)
        if not kwargs["do_center_crop"]:
            raise ValueError(f"num_crops is {num_crops} but do_center_crop is off; switch it on or take one crop")
        if kwargs["do_resize"]:
            videos = [self.resize(video, size=kwargs["size"], resample=kwargs["resample"]) for video in videos]
        crops = [crop for video in videos for crop in spaced_crops(video, num_crops, kwargs["crop_size"])]
        batch = super()._preprocess(crops, **kwargs | {"do_resize": False})
        clips = list(batch["pixel_values_videos"])
        groups = [clips[i : i + num_crops] for i in range(0, len(clips), num_crops)]
        return BatchFeature(data={"pixel_values_videos": list(map(torch.stack, groups))})


def _pipeline_options() -> dict | None:
    """What a video-classification pipeline was asked for when it is what calls the processor; else `None`.

    Pipelines drop `frame_sampling_rate` where a model has a video processor, so it is looked up in their frames.
    """
    frame = inspect.currentframe()
    for _ in range(3):  # preprocess, __call__, the pipeline
        frame = frame and frame.f_back
    if frame is None or frame.f_globals.get("__name__") != "transformers.pipelines.video_classification":
        return None
    caller = frame.f_back.f_locals if frame.f_back else {}  # the pipeline, or its data set
    return caller.get("preprocess_params") or getattr(caller.get("self"), "params", None) or {}


def spaced_crops(video: torch.Tensor, num_crops: int, crop_size) -> list[torch.Tensor]:
    """`num_crops` crops of frames (T, C, H, W), evenly spaced along the longer side from end to end."""
    height, width = video.shape[-2:]
    along_width = width >= height
    longer, extent = (width, crop_size["width"]) if along_width else (height, crop_size["height"])
    if longer < extent:
        raise ValueError(f"frames of {height} x {width} are smaller than the crop of {extent}; resize them first")
    starts = [round(i * (longer - extent) / (num_crops - 1)) for i in range(num_crops)]
    return [video.narrow(-1 if along_width else -2, start, extent) for start in starts]


__all__ = ["VideoMSVideoProcessor"]
