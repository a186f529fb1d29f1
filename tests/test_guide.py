"""The video classification guide of transformers, step by step, with our classes and transformers' own `Trainer`."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from transformers import (
    AutoImageProcessor,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    Trainer,
    TrainingArguments,
    pipeline,
)

from tests.video_files import write_video
from videoms_hf import VideoMSForPreTraining, VideoMSVideoProcessor, open_video
from videoms_hf.decoding_videoms import decode_frames


SIZE, NUM_FRAMES, SAMPLE_RATE = 32, 8, 2
CLASSES = ["ApplyEyeMakeup", "BasketballDunk"]


def write_dataset(root):
    """UCF101's layout: `split/class/video`. A bright square goes right in one class and down in the other."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                frames = np.full((24, SIZE, 48, 3), 30 + 20 * label, dtype=np.uint8)
                frames += rng.integers(0, 20, frames.shape, dtype=np.uint8)
                for t, frame in enumerate(frames):
                    top, left = (t, 4) if label else (4, t)
                    frame[top : top + 8, left : left + 8] = 220
                write_video(root / split / name / f"v_{name}_g0{i}.mp4", frames)
    return root


class LabelledVideos(torch.utils.data.Dataset):
    """The guide's clips of `num_frames * sample_rate` frames, at a random place in training and in the middle else."""

    def __init__(self, root, label2id, transform, is_random):
        self.paths = sorted(root.glob("*/*.mp4"))
        self.label2id, self.transform, self.is_random = label2id, transform, is_random

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with open_video(self.paths[i]) as reader:
            last = len(reader) - NUM_FRAMES * SAMPLE_RATE
            start = torch.randint(last + 1, ()).item() if self.is_random else last // 2
            video = self.transform(reader.frames(range(start, start + NUM_FRAMES * SAMPLE_RATE, SAMPLE_RATE)))
        return {"video": video.permute(1, 0, 2, 3), "label": self.label2id[self.paths[i].parent.name]}


def collate_fn(examples):
    pixel_values = torch.stack([example["video"].permute(1, 0, 2, 3) for example in examples])
    labels = torch.tensor([example["label"] for example in examples])
    return {"pixel_values": pixel_values, "labels": labels}


def compute_metrics(eval_pred):
    predictions = np.argmax(eval_pred.predictions, axis=1)
    return {"accuracy": float((predictions == eval_pred.label_ids).mean())}


@pytest.mark.parametrize("auto_processor", [AutoImageProcessor, AutoVideoProcessor])
def test_the_guide_of_transformers_works_from_sampling_to_the_pipeline(tiny_config, tmp_path, auto_processor):
    root = write_dataset(tmp_path / "UCF101_subset")
    VideoMSForPreTraining(tiny_config()).save_pretrained(tmp_path / "checkpoint")
    size = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    VideoMSVideoProcessor(**size, num_frames=NUM_FRAMES, frame_stride=SAMPLE_RATE).save_pretrained(
        tmp_path / "checkpoint"
    )

    # Load a model to fine-tune
    class_labels = sorted({path.parent.name for path in root.glob("*/*/*.mp4")})
    label2id = {label: i for i, label in enumerate(class_labels)}
    id2label = {i: label for label, i in label2id.items()}
    processor = auto_processor.from_pretrained(tmp_path / "checkpoint")
    model = AutoModelForVideoClassification.from_pretrained(
        tmp_path / "checkpoint", label2id=label2id, id2label=id2label, ignore_mismatched_sizes=True
    )
    assert model.config.num_frames == NUM_FRAMES and model.config.id2label == id2label

    # Prepare the datasets for training
    if "shortest_edge" in processor.size:
        height = width = processor.size["shortest_edge"]
    else:
        height, width = processor.size["height"], processor.size["width"]
    to_pixels = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(processor.image_mean, processor.image_std)]
    train_transform = v2.Compose([v2.RandomCrop((height, width)), *to_pixels])
    val_transform = v2.Compose([v2.CenterCrop((height, width)), *to_pixels])
    train_dataset = LabelledVideos(root / "train", label2id, train_transform, is_random=True)
    val_dataset = LabelledVideos(root / "val", label2id, val_transform, is_random=False)
    test_dataset = LabelledVideos(root / "test", label2id, val_transform, is_random=False)
    sample = test_dataset[0]["video"].permute(1, 0, 2, 3)
    clip = decode_frames(test_dataset.paths[0], range(4, 20, SAMPLE_RATE))
    by_processor = processor(clip, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(sample, by_processor, atol=1e-5, rtol=0)

    # Train the model
    args = TrainingArguments(
        str(tmp_path / "finetuned-ucf101-subset"),
        remove_unused_columns=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        learning_rate=5e-3,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        warmup_steps=0.1,
        logging_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        max_steps=6,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=val_dataset,
        processing_class=processor,
        compute_metrics=compute_metrics,
        data_collator=collate_fn,
    )
    result = trainer.train()
    assert result.global_step == 6 and np.isfinite(result.training_loss)
    predictions = trainer.predict(test_dataset)
    assert predictions.predictions.shape == (4, 2) and predictions.label_ids.tolist() == [0, 0, 1, 1]
    assert trainer.evaluate(test_dataset)["eval_accuracy"] == predictions.metrics["test_accuracy"]
    trainer.save_model()

    # Inference
    trained = AutoModelForVideoClassification.from_pretrained(tmp_path / "finetuned-ucf101-subset").eval()
    inputs = {"pixel_values": sample.unsqueeze(0), "labels": torch.tensor([0])}
    with torch.no_grad():
        logits = trained(**inputs).logits
    torch.testing.assert_close(logits[0], torch.from_numpy(predictions.predictions[0]), atol=1e-4, rtol=1e-4)
    predicted = trained.config.id2label[logits.argmax(-1).item()]
    video_cls = pipeline("video-classification", model=str(tmp_path / "finetuned-ucf101-subset"))
    answers = video_cls([str(path) for path in test_dataset.paths], batch_size=2)
    assert [len(answer) for answer in answers] == [2] * 4 and {row["label"] for row in answers[0]} == set(CLASSES)
    assert video_cls(clip)[0]["label"] == predicted
