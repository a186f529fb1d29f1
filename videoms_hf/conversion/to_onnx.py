# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""A classifier as an ONNX file with a free batch size and keep ratio, compared with torch, and its preprocessing."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ..configuration_videoms import VideoMSConfig
from ..files import atomic_path, write_json
from ..machine import library_versions
from ..modeling_videoms import VideoMSForVideoClassification
from ..selection_videoms import most_important
from ..tubelets_videoms import gather_slices, split_tubelets
from ..video_processing_videoms import VideoMSVideoProcessor


MODEL_FILE, PREPROCESSING_FILE = "model.onnx", "preprocessing.json"
BATCH_SIZES, KEEP_RATIOS = (1, 3), (0.3, 1.0)  # compared with torch, in addition to the model's own ratio
TOLERANCE = 1e-4  # of logits, relative to the largest one
MAX_WEIGHT_BYTES = 1.9e9  # inside an ONNX file; larger weights are stored next to it
# What the processor does with each file, by the names of its own options.
PREPROCESSING = ("frame_stride", "size", "crop_size", "rescale_factor", "image_mean", "image_std")


class ClassifierGraph(nn.Module):
    """The classifier with a number of kept tokens that only the call decides."""

    def __init__(self, model: VideoMSForVideoClassification):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, pixel_values: Tensor, keep_ratio: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, num_labels) and kept tokens (B, K), ascending, of clips; `keep_ratio` is a float64 scalar.

        Without `keep_ratio` it is the model's, which is all that selections other than by motion have.
        """
        model, config, embeddings = self.model, self.model.config, self.model.videoms.embeddings
        if keep_ratio is None:
            outputs = model(pixel_values)
            return outputs.logits, outputs.kept_ids
        if config.candidate_ratio > 1:
            slice_ids = embeddings.frame_selector(
                embeddings.importance(pixel_values), config.num_candidate_frames // config.tubelet_size
            )
            pixel_values = gather_slices(pixel_values, slice_ids, config.tubelet_size)
        num_kept = torch.floor(keep_ratio * config.num_tokens + 1e-6).long().item()  # as `floor_share`
        torch._check(num_kept >= 1)
        importance, tokens = embeddings.importance_and_embeddings(pixel_values)
        if tokens is None:
            tokens = embeddings.patch_embeddings(split_tubelets(pixel_values, config)).flatten(1, 3)
        kept_ids = most_important(importance, num_kept).sort(dim=1).values
        tokens = tokens.gather(1, kept_ids[..., None].expand(-1, -1, config.hidden_size))
        tokens = tokens + embeddings.position_embeddings(kept_ids, config.num_tokens)
        return model.classifier(model.fc_norm(model.videoms.encoder(tokens).mean(dim=1))), kept_ids


def export_onnx(
    model: VideoMSForVideoClassification, processor: VideoMSVideoProcessor, folder: str | os.PathLike
) -> dict:
    """What `preprocessing.json` says of the new folder, which holds it and `model.onnx`.

    The folder only appears if onnxruntime gives torch's logits and kept tokens at several batch sizes and keep ratios.

    Raises:
        ImportError: onnxruntime or onnxscript is not installed.
        ValueError: The processor does not resize, crop, rescale and normalise, or onnxruntime disagrees with torch.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{error}; install the extra: pip install "videoms_hf[export]"') from error
    for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if not getattr(processor, name):
            raise ValueError(f"the processor's {name} is off, which {PREPROCESSING_FILE} cannot say; switch it on")
    model = model.float().eval()
    model.set_attn_implementation("eager")  # sdpa's code asks how many tokens there are
    config, by_motion = model.config, model.config.token_selection == "motion"
    ratios = sorted({*KEEP_RATIOS, config.kept_share}) if by_motion else [None]
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder) as partial, torch.no_grad():
        partial.mkdir()
        names = ["pixel_values", "keep_ratio"][: 1 + by_motion]
        program = torch.onnx.export(
            ClassifierGraph(model),
            (random_clips(config, 2), *([torch.tensor(0.5, dtype=torch.float64)] if by_motion else [])),
            dynamo=True,
            dynamic_shapes=dict(zip(names, ({0: torch.export.Dim("batch", min=1, max=65536)}, None), strict=False)),
            input_names=names,
            output_names=["logits", "kept_ids"],
            verbose=False,
        )
        num_bytes = sum(value.nbytes for value in model.state_dict().values())
        program.save(partial / MODEL_FILE, external_data=num_bytes > MAX_WEIGHT_BYTES)
        session = onnxruntime.InferenceSession(partial / MODEL_FILE, providers=["CPUExecutionProvider"])
        found = [compared(session, model, batch_size, ratio) for batch_size in BATCH_SIZES for ratio in ratios]
        content = {
            "inputs": {
                "pixel_values": "float32 (batch, frames, channels, height, width)",
                **({"keep_ratio": "float64 (), in (0, 1]"} if by_motion else {}),
            },
            "outputs": {"logits": "float32 (batch, classes)", "kept_ids": "int64 (batch, kept tokens)"},
            "keep_ratio": config.kept_share,
            "classes": [config.id2label[i] for i in range(config.num_labels)],
            "preprocessing": {
                "num_frames": config.num_candidate_frames,
                **{name: value for name, value in processor.to_dict().items() if name in PREPROCESSING},
            },
            "compared_with_torch": {
                "batch_sizes": list(BATCH_SIZES),
                "keep_ratios": ratios,
                "largest_difference": max(found),
            },
            "versions": {**library_versions(), "onnxruntime": onnxruntime.__version__},
        }
        write_json(content, partial / PREPROCESSING_FILE)
    return content


def random_clips(config: VideoMSConfig, batch_size: int) -> Tensor:
    """Clips of noise whose strength varies from tubelet to tubelet, so that rounding does not change their ranks."""
    generator = torch.Generator().manual_seed(0)
    (height, width), frames = config.image_shape, config.num_candidate_frames
    patches = (frames // config.tubelet_size, height // config.patch_shape[0], width // config.patch_shape[1])
    strength = torch.rand(batch_size, 1, *patches, generator=generator)
    strength = nn.functional.interpolate(strength, (frames, height, width)).transpose(1, 2)
    return strength * torch.randn(batch_size, frames, config.num_channels, height, width, generator=generator)


def compared(session, model: VideoMSForVideoClassification, batch_size: int, keep_ratio: float | None) -> float:
    """Largest difference between the logits of onnxruntime and torch; raises `ValueError` if they do not agree."""
    clips = random_clips(model.config, batch_size)
    expected = model(clips, keep_ratio=keep_ratio)
    inputs = {"pixel_values": clips.numpy()}
    if keep_ratio is not None:
        inputs["keep_ratio"] = torch.tensor(keep_ratio, dtype=torch.float64).numpy()
    logits, kept_ids = map(torch.from_numpy, session.run(["logits", "kept_ids"], inputs))
    difference = (logits - expected.logits).abs().max().item()
    bound = TOLERANCE * expected.logits.abs().max().item()
    if not kept_ids.equal(expected.kept_ids) or not difference <= bound:
        raise ValueError(
            f"onnxruntime's logits differ by {difference:.2g} from torch's, at batch size {batch_size} and keep_ratio "
            f"{keep_ratio}; at most {bound:.2g} is allowed, and the kept tokens must be the same. Nothing was written"
        )
    return difference
