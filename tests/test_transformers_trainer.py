"""Our classes under transformers' own Trainer: what it takes for predictions, and accumulated batches."""

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from videoms_hf import VideoMSForVideoClassification

from .conftest import randomize


class Clips(torch.utils.data.Dataset):
    def __init__(self, label):
        self.label = label

    def __len__(self):
        return 8

    def __getitem__(self, i):
        clip = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(i))
        return {"pixel_values": clip, "labels": self.label(i)}


def trainer(model, folder, **options):
    options = {"learning_rate": 0.0, "max_grad_norm": 0.0, "logging_steps": 1, "max_steps": 1} | options
    arguments = TrainingArguments(
        folder, **options, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    return Trainer(model, arguments, train_dataset=Clips(model.label), eval_dataset=Clips(model.label))


def classifier(config, label):
    model = randomize(VideoMSForVideoClassification(config)).eval()
    model.label = label
    return model


def test_predictions_are_the_logits_alone(tmp_path, tiny_config):
    model = classifier(tiny_config(candidate_ratio=1, num_labels=3), lambda i: i % 3)
    model.set_attn_implementation("eager")
    model.config.output_hidden_states = model.config.output_attentions = True
    evaluation = trainer(model, tmp_path, per_device_eval_batch_size=3)
    evaluation.compute_metrics = lambda result: {  # that of transformers' guide
        "accuracy": (np.argmax(result.predictions, axis=1) == result.label_ids).mean()
    }
    assert "eval_accuracy" in evaluation.evaluate()
    clips = torch.stack([Clips(model.label)[i]["pixel_values"] for i in range(8)])
    predictions = evaluation.predict(evaluation.eval_dataset).predictions
    torch.testing.assert_close(torch.tensor(predictions), model(clips).logits.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "problem_type, num_labels, label",
    [
        ("single_label_classification", 3, lambda i: i % 3),
        ("single_label_classification", 3, lambda i: torch.tensor([0.5, 0.25, 0.25]).roll(i)),
        ("multi_label_classification", 3, lambda i: torch.tensor([1.0, i % 2, 0])),
        ("regression", 1, float),
        ("regression", 3, lambda i: torch.tensor([1.0, i, 2])),
    ],
)
def test_accumulated_batches_have_the_loss_and_gradient_of_one(tmp_path, tiny_config, problem_type, num_labels, label):
    found = []
    for batch_size, steps in ((8, 1), (2, 4)):
        model = classifier(tiny_config(problem_type=problem_type, num_labels=num_labels), label)
        options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": steps}
        training = trainer(model, tmp_path, **options)
        training.train()
        found.append({key: training.state.log_history[0][key] for key in ("loss", "grad_norm")})
    assert found[1] == pytest.approx(found[0], rel=1e-3)
