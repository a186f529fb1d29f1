"""The two models that benchmarks compare, VideoMS and transformers' VideoMAE of the same size, as step functions."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification

from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSForVideoClassification


TASKS = ("pretraining", "classification", "inference")
NUM_LABELS = 101


def build(name: str, task: str, size: str, num_frames: int = 16, image_size: int = 224, keep_ratio: float = 0.6):
    """The model `"videoms"` or `"videomae"` for a task, with equal widths, depths and number of labels."""
    config = VideoMSConfig.from_size(
        size, num_frames=num_frames, image_size=image_size, keep_ratio=keep_ratio, num_labels=NUM_LABELS
    )
    if name == "videoms":
        model = VideoMSForPreTraining(config) if task == "pretraining" else VideoMSForVideoClassification(config)
    else:
        fields = VideoMAEConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version", "dtype"}
        fields = {field: getattr(config, field) for field in fields if hasattr(config, field)} | {
            "use_mean_pooling": task != "pretraining",
            "num_labels": NUM_LABELS,
        }
        cls = VideoMAEForPreTraining if task == "pretraining" else VideoMAEForVideoClassification
        model = cls(VideoMAEConfig(**fields))
    return model.train(task != "inference")


def tube_mask(batch: int, num_frames: int, image_size: int, device, mask_ratio: float = 0.9) -> torch.Tensor:
    """VideoMAE's tube mask: the same patches in every time step."""
    places = (image_size // 16) ** 2
    masked = torch.stack([torch.randperm(places) < int(mask_ratio * places) for _ in range(batch)])
    return masked.repeat(1, num_frames // 2).to(device)


def make_step(model, name: str, task: str, clips: torch.Tensor, autocast: torch.dtype | None = None) -> Callable:
    """A function that runs one training step without the optimiser (forward and backward), or one inference."""
    device = clips.device
    inputs = {}
    if task == "pretraining" and name == "videomae":
        inputs["bool_masked_pos"] = tube_mask(clips.shape[0], clips.shape[1], clips.shape[-1], device)
    elif task == "classification":
        inputs["labels"] = torch.randint(NUM_LABELS, (clips.shape[0],), device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype=autocast) if autocast else nullcontext():
            if task == "inference":
                with torch.no_grad():
                    model(clips)
                return
            loss = model(clips, **inputs).loss
        loss.backward()
        model.zero_grad(set_to_none=False)

    return step
