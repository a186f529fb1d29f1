"""Runs that cannot learn say so before they start, and those that did not learn when they end."""

import math

import pytest

from tests import test_training_scripts
from tests.test_training_scripts import TINY_DECODER, script
from tests.tiny_run import tiny_trainer
from videoms_hf.training import reporting
from videoms_hf.training.reporting import MIN_STEPS, chance_loss, warn_of_short_run, warn_of_vain_run


videos = test_training_scripts.videos  # a fixture


def warned(stage, folder, **options):
    """The warnings of a run on 11 clips in batches of 2, which is not carried out."""
    return warn_of_short_run(tiny_trainer(stage, folder, **options))


@pytest.mark.parametrize("head_init", MIN_STEPS)
def test_fine_tuning_of_too_few_steps_is_warned_of_with_a_batch_and_epochs_that_suffice(head_init, tmp_path):
    least = MIN_STEPS[head_init]
    (warning,) = warned("finetune", tmp_path, head_init=head_init, num_train_epochs=40, warmup_epochs=0)
    assert f"200 optimiser steps are few: fine-tuning a small network took at least {least} to learn" in warning
    assert f"{40 * least // 200} epochs" in warning
    assert "1 clips instead of 2" in warning and ("head_init linear_probe" in warning) == (head_init == "random")
    assert not warned("finetune", tmp_path, head_init=head_init, num_train_epochs=least // 5, warmup_epochs=0)


def test_few_steps_of_pretraining_are_not_warned_of(tmp_path):
    assert not warned("pretrain", tmp_path, num_train_epochs=4, warmup_epochs=1)


def test_a_warmup_of_more_than_a_quarter_is_warned_of_whatever_it_is_given_by(tmp_path):
    wanted = "the warm-up takes 10 of 25 steps"
    options = {"stage": "pretrain", "folder": tmp_path, "num_train_epochs": 5}
    assert wanted in warned(**options, warmup_epochs=2)[0]
    assert wanted in warned(**options, warmup_epochs=2, lr_scheduler_type="warmup_stable_decay")[0]
    assert wanted in warned(**options, warmup_steps=10, lr_scheduler_type="linear")[0]
    assert not warned(**options, warmup_epochs=2, lr_scheduler_type="linear")  # which has no warmup_epochs
    assert not warned(**options, warmup_epochs=1)


def test_a_run_that_learned_nothing_says_so_in_its_last_lines(videos, tmp_path, capsys):
    script("finetune", train_data=videos / "train.csv", output_dir=tmp_path / "f", learning_rate=1e-9)
    said = capsys.readouterr().out
    assert "Warning: 8 optimiser steps are few" in said and "Warning: the warm-up takes 4 of 8 steps" in said
    assert f"guessing by the classes' frequencies gives {math.log(8):.3f}" in said.split("videos were corrupt")[1]
    script("pretrain", train_data=videos / "pretrain.csv", output_dir=tmp_path / "p", **TINY_DECODER)
    assert "of the variance of what it predicts" in capsys.readouterr().out.split("videos were corrupt")[1]


@pytest.mark.parametrize("stage, good, bad", [("finetune", 1.07, 1.08), ("pretrain", 0.94, 0.96)])
def test_only_the_last_quarter_of_a_run_counts(stage, good, bad, tmp_path):
    trainer = tiny_trainer(stage, tmp_path)  # 3 classes: chance is ln 3 = 1.0986, 98 % of it 1.0766
    trainer.state.max_steps = 100
    for loss in (good, bad):
        trainer.state.log_history = [
            {"step": 70, "loss": 9.0},
            {"step": 80, "loss": loss},
            {"step": 100, "loss": loss},
        ]
        assert len(warn_of_vain_run(trainer)) == (loss == bad)


def test_chance_knows_how_frequent_the_classes_are_and_how_labels_are_smoothed(videos, tmp_path, monkeypatch):
    lines = [f"{videos / line}" for line in (videos / "train.csv").read_text().splitlines()]
    few = [line for line in lines if line.endswith(" 0")] + [line for line in lines if line.endswith(" 1")][:1]
    (tmp_path / "train.csv").write_text("\n".join(few) + "\n")  # two of the one, one of the other
    options = {"train_data": tmp_path / "train.csv", "per_device_train_batch_size": 1, "output_dir": tmp_path / "run"}
    found = []
    monkeypatch.setattr(reporting, "chance_loss", lambda trainer: found.append(chance_loss(trainer)))
    script("finetune", **options, label_smoothing_factor=0.1)
    shares = [0.9 * 2 / 3 + 0.05, 0.9 / 3 + 0.05]
    assert found == [pytest.approx(-sum(share * math.log(share) for share in shares))]
    assert (
        chance_loss(tiny_trainer("finetune", tmp_path / "multi", {"problem_type": "multi_label_classification"}))
        is None
    )


def test_the_stable_schedule_keeps_the_peak_rate_until_the_last_quarter(tmp_path):
    trainer = tiny_trainer("finetune", tmp_path, num_train_epochs=4, lr_scheduler_type="warmup_stable_decay")
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    peak = trainer.args.learning_rate
    assert rates[5:16] == [peak] * 11 and rates[0] == 0 and rates[4] == pytest.approx(0.8 * peak)
    assert rates[16:] == pytest.approx([0.8 * peak, 0.6 * peak, 0.4 * peak, 0.2 * peak])
