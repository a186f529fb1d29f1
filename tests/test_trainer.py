"""The trainer: the recipe's schedule in a real run, clips and noise by seed, whole evaluations, and what is logged."""

import ast
import copy
import inspect
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, Trainer, default_data_collator

from tests.test_optimization import reference_schedule
from tests.tiny_run import NUM_CLASSES, ClipsInMemory, losses, tiny_model, tiny_trainer, weights
from videoms_hf.configuration_videoms import noise_lengths
from videoms_hf.data.collate import collate_seeded
from videoms_hf.data.seeding import EpochSampler, SeededClips, seeded
from videoms_hf.training import trainer as trainer_module
from videoms_hf.training.reporting import TimeEstimate, describe_run


RATIOS = [0.25, 0.5, 1.0]
# Private members of transformers' Trainer that only trainer.py overrides or uses. Checked against transformers 5.17.0
# and 5.24.0; check them again before allowing a newer one.
PRIVATE_MEMBERS = [
    *("_created_lr_scheduler", "_finish_current_push", "_get_output_dir", "_get_train_sampler"),
    *("_load_best_model", "_prepare_inputs", "_save_checkpoint"),
]


def soft_labels(items: list[dict]) -> dict:
    """A training collator that smooths labels, as mixup's does."""
    batch = default_data_collator(items)
    batch["labels"] = 0.1 / NUM_CLASSES + 0.9 * torch.nn.functional.one_hot(batch["labels"], NUM_CLASSES).float()
    return batch


def logs_of(trainer, key: str) -> list:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


# -- schedule and groups --------------------------------------------------------------------------------------------


def test_a_run_has_the_official_rate_at_every_step(tmp_path):
    options = {"base_min_learning_rate": 0.01, "base_warmup_learning_rate": 0.02, "gradient_accumulation_steps": 2}
    trainer = tiny_trainer("finetune", tmp_path, save_strategy="no", clips=12, **options)
    trainer.train()
    scale = 4 / 256  # 2 clips x 2 accumulated
    expected = reference_schedule(
        9, 3, 1.0 * scale, 0.01 * scale, 0.02 * scale
    )  # 3 epochs of 3 steps, the first warms
    assert logs_of(trainer, "learning_rate") == pytest.approx(expected, rel=1e-9)
    factors = {group["layer"]: group["initial_lr"] / scale for group in trainer.optimizer.param_groups}
    assert factors == pytest.approx({3: 1, 2: 0.75, 1: 0.75**2, 0: 0.75**3})
    shares = [group["lr"] / group["initial_lr"] for group in trainer.optimizer.param_groups]
    assert shares == pytest.approx(len(shares) * [0.01])  # every group moves by the same factor


def test_warmup_steps_replace_warmup_epochs_and_other_schedules_are_transformers_own(tmp_path):
    trainer = tiny_trainer("pretrain", tmp_path / "a", save_strategy="no", warmup_steps=2)
    trainer.train()
    scale = 2 / 256
    assert logs_of(trainer, "learning_rate") == pytest.approx(
        reference_schedule(15, 2, scale, 1e-5 * scale, 1e-6 * scale), rel=1e-9
    )
    trainer = tiny_trainer("pretrain", tmp_path / "b", save_strategy="no", lr_scheduler_type="linear")
    trainer.train()
    assert logs_of(trainer, "learning_rate") == pytest.approx([scale * (1 - i / 15) for i in range(15)])


def test_a_run_that_is_shorter_than_its_warmup_shortens_it_and_says_so(tmp_path, caplog):
    trainer = tiny_trainer("finetune", tmp_path, max_steps=1, warmup_epochs=5, save_strategy="no", eval_strategy="no")
    with caplog.at_level("WARNING", "videoms_hf"):
        trainer.train()
    assert trainer.state.global_step == 1
    assert "The warm-up of 25 steps is longer than the run of 1; it is shortened to 0" in caplog.text


def test_a_batch_that_leaves_many_videos_out_is_said_at_the_start(tmp_path, caplog):
    with caplog.at_level("WARNING", "videoms_hf"):
        tiny_trainer("finetune", tmp_path, clips=3, max_steps=1, save_strategy="no", eval_strategy="no").train()
    assert caplog.text.count("omits 1 of 3 training videos") == 1


def test_private_members_of_trainer_are_listed_in_one_place():
    """A release of transformers may rename them without a word."""
    used = set()
    for path in Path(trainer_module.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.Attribute):
                used.add(node.name if isinstance(node, ast.FunctionDef) else node.attr)
    source = inspect.getsource(Trainer)
    members = {name for name in used if re.fullmatch("_[a-z_]*[a-z]", name) and re.search(rf"self\.{name}\b", source)}
    members -= vars(trainer_module.VideoMSTrainer).keys() - vars(Trainer).keys()
    assert sorted(members) == PRIVATE_MEMBERS


def test_trainers_own_signatures_keep_working():
    """Every public method takes what transformers' takes, in the same order."""
    for name, ours in vars(trainer_module.VideoMSTrainer).items():
        theirs = getattr(Trainer, name, None)
        if name.startswith("_") and name != "__init__" or not inspect.isfunction(theirs):
            continue
        own = inspect.signature(ours).parameters
        kinds = {part.kind for part in own.values()}
        is_open = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds
        wanted = [part for part in inspect.signature(theirs).parameters if part != "kwargs"]
        assert is_open or list(own)[: len(wanted)] == wanted, name


def test_too_few_videos_for_a_batch_are_refused_with_the_numbers(tmp_path):
    trainer = tiny_trainer("pretrain", tmp_path, clips=3, per_device_train_batch_size=4)
    with pytest.raises(ValueError, match="3 training videos do not fill one batch of 4 on each of 1 processes"):
        trainer.train()


def test_compiling_clipping_stopping_early_and_keeping_the_best_go_together(tmp_path):
    trainer = tiny_trainer(
        "finetune",
        tmp_path,
        torch_compile=True,
        torch_compile_backend="eager",
        max_grad_norm=0.1,
        num_train_epochs=4,
        load_best_model_at_end=True,
        metric_for_best_model="top1",
        save_total_limit=1,
    )
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=1))
    trainer.train()
    accuracies = logs_of(trainer, "eval_top1")
    best = accuracies.index(max(accuracies))
    assert len(accuracies) == min(best + 2, 4)  # one epoch without progress ends the run
    assert {group["layer"] for group in trainer.optimizer.param_groups} == {
        0,
        1,
        2,
        3,
    }  # compiled names are understood
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{5 * (best + 1)}")
    saved = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in weights(trainer).items())


# -- clips ----------------------------------------------------------------------------------------------------------


def test_the_order_of_clips_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = EpochSampler(50, seed)
        sampler.epoch = epoch
        torch.rand(3), random.random(), np.random.rand()
        return list(sampler)

    assert order(1, 0) == order(1, 0) != order(2, 0)
    assert [number - 150 for number in order(1, 3)] != order(1, 0)
    assert sorted(order(1, 3)) == list(range(150, 200))


def test_a_clip_depends_on_seed_epoch_and_row_alone_and_leaves_the_generators_alone():
    clips = SeededClips(
        ClipsInMemory(5, is_training=True, with_labels=True), seed=7, noise={"noise": 4, "slice_noise": 3}
    )
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    item = clips[5 * 2 + 3]  # epoch 2, row 3
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[2]
    assert (np.random.get_state()[1] == before[1]).all()
    torch.rand(10)
    again, other_epoch, other_row = clips[13], clips[8], clips[14]
    assert item["labels"] == 0 and item["video_id"] == 3 and item["clip_number"] == 13
    for name in ("pixel_values", "noise", "slice_noise"):
        assert torch.equal(item[name], again[name])
        assert not torch.equal(item[name], other_epoch[name]) and not torch.equal(item[name], other_row[name])


def test_what_is_random_in_a_collator_depends_on_the_clips_alone():
    def collate(items):
        return {"drawn": torch.rand(2), "rows": [item["video_id"] for item in items]}

    def drawn(*numbers):
        torch.rand(1)
        return collate_seeded([{"clip_number": n, "video_id": n} for n in numbers], collate, 0)["drawn"]

    assert torch.equal(drawn(3, 4), drawn(3, 4))
    assert not torch.equal(drawn(3, 4), drawn(3, 5))


def test_the_generators_come_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(1, 2):
        torch.rand(1)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("selection", ["motion", "random", "tube", "none"])
def test_every_selection_gets_as_much_noise_as_it_takes(selection):
    model = tiny_model("pretrain", token_selection=selection, candidate_ratio=1.5)
    noise = {name: torch.rand(2, length) for name, length in noise_lengths(model.config, True).items()}
    clips = torch.rand(2, 12, 3, 16, 16)
    first, again = model(clips, **noise), model(clips, **noise)
    assert torch.equal(first.visible_ids, again.visible_ids) and torch.equal(first.slice_ids, again.slice_ids)
    for name in ("noise", "slice_noise"):
        with pytest.raises(ValueError, match=f"^{name} has shape"):
            model(clips, **noise | {name: noise[name][:, 1:]})
    assert noise_lengths(model.config, for_pretraining=False) == {"slice_noise": 6}


def test_every_epoch_shows_each_video_once_with_new_noise(tmp_path):
    trainer = tiny_trainer("pretrain", tmp_path, clips=10, save_strategy="no", eval_strategy="no")
    seen = []
    step = trainer.training_step

    def watch(model, inputs, num_items_in_batch=None):
        seen.extend(zip(inputs["video_id"].tolist(), inputs["noise"], strict=True))
        return step(model, inputs, num_items_in_batch)

    trainer.training_step = watch
    trainer.train()
    epochs = [seen[i : i + 10] for i in range(0, 30, 10)]
    orders = [[row for row, _ in epoch] for epoch in epochs]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    noise = torch.stack([values for _, values in seen])
    assert len(noise.unique(dim=0)) == 30


def test_another_seed_is_another_run(tmp_path):
    runs = []
    for seed in (1, 1, 2):
        trainer = tiny_trainer("pretrain", tmp_path / str(len(runs)), seed=seed, max_steps=5, save_strategy="no")
        trainer.train()
        runs.append(losses(trainer))
    assert runs[0] == runs[1] != runs[2]


# -- loss -----------------------------------------------------------------------------------------------------------


def test_accumulated_soft_labels_give_the_gradient_of_the_whole_batch(tmp_path):
    """Trainer would take each value of a soft label for an item and scale the accumulated gradient up."""
    found = []
    for clips, accumulated in ((4, 1), (2, 2), (1, 4)):
        trainer = tiny_trainer(
            "finetune",
            tmp_path / str(clips),
            save_strategy="no",
            clips=16,
            per_device_train_batch_size=clips,
            gradient_accumulation_steps=accumulated,
            label_smoothing_factor=0.1,
        )
        trainer.data_collator = soft_labels
        trainer.train()
        found.append((losses(trainer), weights(trainer), logs_of(trainer, "eval_loss")))
    for other in found[1:]:
        assert other[0] == pytest.approx(found[0][0], rel=1e-5)
        for name, value in found[0][1].items():
            torch.testing.assert_close(other[1][name], value, atol=1e-5, rtol=1e-4)


def test_evaluation_has_its_own_collator_unsmoothed_labels_and_every_item(tmp_path):
    trainer = tiny_trainer("finetune", tmp_path, per_device_eval_batch_size=3)
    trainer.data_collator = soft_labels
    metrics = trainer.evaluate()
    prediction = trainer.predict(trainer.eval_dataset)
    model = trainer.bare_model().eval()
    items = [trainer.eval_dataset[i] for i in range(7)]
    with torch.no_grad():
        logits = model(torch.stack([item["pixel_values"] for item in items])).logits
    labels = torch.tensor([item["labels"] for item in items])
    assert metrics["eval_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics["eval_top1"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())
    torch.testing.assert_close(torch.from_numpy(prediction.predictions), logits)  # the last batch has one item
    assert trainer.args.dataloader_drop_last and trainer.data_collator is soft_labels  # as before


def test_pretraining_has_an_evaluation_loss_that_can_be_repeated(tmp_path):
    trainer = tiny_trainer("pretrain", tmp_path)
    first, torch_state = trainer.evaluate()["eval_loss"], torch.get_rng_state()
    torch.manual_seed(99)
    assert trainer.evaluate()["eval_loss"] == first
    torch.set_rng_state(torch_state)
    model = trainer.bare_model().eval()
    clips = torch.stack([trainer.eval_dataset[i]["pixel_values"] for i in range(7)])
    with torch.no_grad():
        assert first == pytest.approx(model(clips).loss.item(), rel=1e-5)


class Poisoned(ClipsInMemory):
    """One clip, row 4, is not a number; rows have names."""

    table = [{"video": f"/videos/{i}.mp4"} for i in range(11)]

    def __getitem__(self, i):
        item = super().__getitem__(i)
        return item | {"pixel_values": item["pixel_values"] * (float("nan") if i == 4 else 1)}


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_rate_and_files(stage, tmp_path):
    trainer = tiny_trainer(stage, tmp_path, save_strategy="no")
    trainer.train_dataset = Poisoned(11, is_training=True, with_labels=stage == "finetune")
    with pytest.raises(FloatingPointError) as error:
        trainer.train()
    step = trainer.state.global_step + 1
    order = [number % 11 for number in EpochSampler(11, 42)]
    names = [f"/videos/{row}.mp4" for row in order[2 * (step - 1) : 2 * step]]
    assert "/videos/4.mp4" in names
    assert f"the loss is nan at step {step}, learning rate" in str(error.value)
    assert ", ".join(names) in str(error.value)
    assert all(value.isfinite().all() for value in weights(trainer).values())  # nothing was learned from it


# -- average --------------------------------------------------------------------------------------------------------


def test_the_average_is_what_is_evaluated_and_saved_and_training_goes_on_with_the_weights(tmp_path):
    plain = tiny_trainer("finetune", tmp_path / "plain", save_strategy="no")
    plain.train()
    trainer = tiny_trainer("finetune", tmp_path / "averaged", ema_decay=0.5)
    trainer.train()
    own = weights(trainer)
    assert losses(trainer) == losses(plain)
    assert all(torch.equal(own[name], value) for name, value in weights(plain).items())
    assert logs_of(trainer, "eval_loss") != logs_of(plain, "eval_loss")

    trainer.save_model()
    saved = load_file(tmp_path / "averaged" / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in trainer.average.average.items())
    assert all(torch.equal(own[name], value) for name, value in weights(trainer).items())
    checkpoint = load_file(tmp_path / "averaged" / "checkpoint-15" / "model.safetensors")
    assert all(torch.equal(own[name], value) for name, value in checkpoint.items())
    model = copy.deepcopy(trainer.bare_model())
    model.load_state_dict(saved)
    trainer.average, trainer.model = None, model
    assert trainer.evaluate()["eval_loss"] == logs_of(trainer, "eval_loss")[-2]


# -- logs -----------------------------------------------------------------------------------------------------------


def test_the_log_tells_speed_and_selection(tmp_path):
    trainer = tiny_trainer("pretrain", tmp_path / "a", num_train_epochs=1)
    trainer.train()
    for entry in (entry for entry in trainer.state.log_history if "loss" in entry):
        assert entry["clips_per_second"] > 0 and 0 <= entry["data_wait_share"] <= 1 and entry["peak_memory_gib"] > 0
        # 64 tokens: 30 % kept, of which 20 % of all are visible.
        assert (entry["visible_tokens"], entry["target_tokens"]) == (12, 7) and entry["mean_importance"] > 0
        assert "kept_tokens" not in entry and "grad_norm" in entry
    trainer = tiny_trainer("finetune", tmp_path / "b", num_train_epochs=1)
    trainer.train()
    assert {entry["kept_tokens"] for entry in trainer.state.log_history if "loss" in entry} == {38}
    trainer = tiny_trainer("finetune", tmp_path / "c", {"token_selection": "none"}, num_train_epochs=1)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert entry["kept_tokens"] == 64 and "mean_importance" not in entry


def test_the_run_describes_itself_in_the_numbers_it_then_has(tmp_path):
    trainer = tiny_trainer("pretrain", tmp_path, gradient_accumulation_steps=2, clips=13)
    text = describe_run(trainer)
    for words in (
        "64 = 4x4x4, 12 encoded, 7 predicted (selection: motion)",
        "4 clips = 2 x 1 processes x 2 accumulated, float32 on cpu",
        "from 1.56e-08 up to 0.0156, down to 1.56e-07",
        "9 steps, 3 epochs of 3 steps and 12 clips",
        f"{trainer.bare_model().flops() / 1e9:.3g} GMACs a clip",
    ):
        assert words in text
    trainer.train()
    assert trainer.state.global_step == 9
    text = describe_run(tiny_trainer("finetune", tmp_path / "b", {"candidate_ratio": 1.5}))
    assert "8 frames of 16x16, drawn from 12" in text and "38 encoded" in text
    text = describe_run(tiny_trainer("finetune", tmp_path / "c", {"token_selection": "tube"}))
    assert "64 = 4x4x4, 36 encoded (selection: tube)" in text


def test_the_time_that_is_left_is_told_once(tmp_path):
    said = []
    trainer = tiny_trainer("pretrain", tmp_path, save_strategy="no")
    trainer.add_callback(TimeEstimate(said.append, num_steps=3))
    trainer.train()
    assert len(said) == 1 and re.search(r"s per step: about \d+ s left, without evaluation", said[0])


def test_operations_are_counted_as_the_model_counts_them(tmp_path):
    trainer = tiny_trainer("finetune", tmp_path, num_train_epochs=1, save_strategy="no")
    trainer.train()
    assert trainer.state.total_flos == 10 * 2 * trainer.bare_model().flops(training=True)


def test_frozen_patch_embeddings_stay_in_pretraining_and_everything_else_learns(tmp_path):
    trainer = tiny_trainer("pretrain", tmp_path, save_strategy="no", freeze_patch_embeddings=True)
    before = weights(trainer)
    trainer.train()
    same = {name for name, weight in weights(trainer).items() if torch.equal(weight, before[name])}
    assert same == {f"videoms.embeddings.patch_embeddings.projection.{part}" for part in ("weight", "bias")}


def test_each_step_draws_its_keep_ratio_by_seed_and_the_log_tells_what_it_cost(tmp_path):
    def run(folder, **options):
        trainer = tiny_trainer("finetune", tmp_path / folder, save_strategy="no", keep_ratios=RATIOS, **options)
        trainer.train()
        assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]  # at the model's own ratio
        return trainer, logs_of(trainer, "kept_tokens")

    trainer, kept = run("a")
    assert set(kept) == {int(64 * ratio) for ratio in RATIOS} and len(kept) == 15
    assert run("b")[1] == kept and run("c", seed=5)[1] != kept
    accumulated, means = run("d", gradient_accumulation_steps=2, per_device_train_batch_size=1, clips=10)
    assert means == kept  # one ratio for all batches of a step
    model = trainer.bare_model()
    costs = {int(64 * ratio): model.flops(training=True, keep_ratio=ratio) for ratio in RATIOS}
    assert trainer.state.total_flos == sum(2 * 2 * costs[number] for number in kept)
    assert logs_of(trainer, "gmacs_per_clip") == [pytest.approx(costs[number] / 1e9, rel=1e-3) for number in kept]
    assert "38 encoded (selection: motion), in training [0.25, 0.5, 1.0] of them by step" in describe_run(trainer)
    _, means = run("e", logging_steps=5)
    parts = [kept[:1], kept[1:5], kept[5:10], kept[10:]]  # the first step is logged too
    assert means == [pytest.approx(sum(part) / len(part), abs=0.05) for part in parts]


def test_clips_of_bytes_are_normalised_on_the_device_and_floats_stay(tmp_path):
    trainer = tiny_trainer("finetune", tmp_path, save_strategy="no")
    clips = torch.randint(0, 256, (2, 4, 3, 16, 16), dtype=torch.uint8)
    labels = torch.tensor([0, 1])
    prepared = trainer._prepare_inputs({"pixel_values": clips, "labels": labels})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (clips.double() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert prepared["pixel_values"].dtype == torch.float32 and torch.equal(prepared["labels"], labels)
    torch.testing.assert_close(prepared["pixel_values"].double(), expected, atol=1e-6, rtol=0)
    again = trainer._prepare_inputs(prepared)
    assert torch.equal(again["pixel_values"], prepared["pixel_values"])
