"""Recipes: every one parses, and says what the paper's table says; the command line wins; mistakes are named."""

from pathlib import Path

import pytest

from videoms_hf.command_line import given_options, parse_recipe
from videoms_hf.training import (
    AugmentationArguments,
    DataArguments,
    FineTuningArguments,
    ModelArguments,
    PreTrainingArguments,
    plan_evaluation,
)


RECIPES = Path(__file__).parents[1] / "scripts" / "recipes"
PRETRAINING = (ModelArguments, DataArguments, PreTrainingArguments)
FINETUNING = (ModelArguments, DataArguments, AugmentationArguments, FineTuningArguments)
REQUIRED = ["--train_data", "train.csv", "--output_dir", "unused"]

# Epochs, warm-up, clips of a GPU, rates (peak, minimum, warm-up), second beta, frames, stride; pre-training and
# fine-tuning as the authors' scripts have them.
OFFICIAL = {
    "ucf101/pretrain": (3200, 40, 24, (1e-3, 1e-5, 1e-6), 0.95, 16, 4),
    "hmdb51/pretrain": (4800, 40, 24, (1e-3, 1e-5, 1e-6), 0.95, 16, 2),
    "ucf101/finetune": (100, 5, 16, (1e-3, 1e-6, 1e-6), 0.999, 16, 4),
    "hmdb51/finetune": (50, 5, 16, (1e-3, 1e-6, 1e-6), 0.999, 16, 2),
}


def parse(name, *arguments):
    kinds = PRETRAINING if name.endswith("pretrain") else FINETUNING
    return parse_recipe(*kinds, arguments=[str(RECIPES / f"{name}.yaml"), *arguments])


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_authors_recipes_have_their_numbers(name):
    model, data, *_, training = parse(name)
    epochs, warmup, clips, rates, beta, frames, stride = OFFICIAL[name]
    assert (training.num_train_epochs, training.warmup_epochs) == (epochs, warmup)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (clips, 1)
    assert rates == (
        training.base_learning_rate,
        training.base_min_learning_rate,
        training.base_warmup_learning_rate,
    )
    assert (training.adam_beta1, training.adam_beta2, training.weight_decay) == (0.9, beta, 0.05)
    assert (training.max_grad_norm, training.optim, training.lr_scheduler_type) == (0, "adamw_torch_fused", "cosine")
    assert (data.num_frames, data.frame_stride, data.image_size) == (frames, stride, None)
    assert (model.model_size, model.token_selection) == ("base", "motion")
    config = model.to_config(num_frames=data.num_frames)
    assert (config.hidden_size, config.num_hidden_layers, config.candidate_ratio) == (768, 12, 1)
    if name.endswith("pretrain"):
        assert (config.pretraining_keep_ratio, config.mask_ratio, training.layer_decay) == (0.3, 0.9, 1)
    else:
        assert (config.keep_ratio, config.drop_path_rate, training.layer_decay) == (0.6, 0.1, 0.75)


@pytest.mark.parametrize("name", ["ucf101/finetune", "hmdb51/finetune"])
def test_the_authors_fine_tuning_augments_as_they_do(name):
    _, _, augmentation, training = parse(name)
    assert augmentation == AugmentationArguments(
        rand_augment="rand-m7-n4-mstd0.5-inc1", horizontal_flip=True, random_erasing=0.25, mixup=0, cutmix=0
    )
    assert training.label_smoothing_factor == 0.1


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_opens_with_what_a_reader_must_know(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Source:", "Hardware:", "Time:", "Score:", "Run:"):
        assert any(line.startswith(f"# {word}") for line in header), f"{path} does not say its {word}"
    assert path.read_text().splitlines()[: len(header)] == header


@pytest.mark.parametrize("name", ["kinetics400", "ssv2", "oscc"])
def test_the_adapted_recipes_parse_and_say_whose_they_are(name):
    for stage in ("pretrain", "finetune"):
        assert "# Source: ours." in (RECIPES / name / f"{stage}.yaml").read_text()
        model, data, *_ = parse(f"{name}/{stage}")
        assert model.to_config().candidate_ratio == (1.5 if name == "oscc" else 1)
    _, _, augmentation, _ = parse(f"{name}/finetune")
    assert augmentation.horizontal_flip == (name != "ssv2"), "left and right are labels in Something-Something V2"


@pytest.mark.parametrize(
    "folder, shape, steps", [("small", (32, 1, 64), (6000, 1600)), ("rendered", (8, 3, 32), (10000, 400))]
)
def test_both_stages_of_the_recipes_for_small_data_have_one_network_and_clips_and_learn_in_steps(folder, shape, steps):
    (model, data, before), (other, clips, _, after) = (
        parse(f"{folder}/{stage}", *REQUIRED) for stage in ("pretrain", "finetune")
    )
    size = {"image_size": data.image_size, "num_frames": data.num_frames}
    encoders = [part.to_config(**size) for part in (model, other)]
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size"):
        assert getattr(encoders[0], name) == getattr(encoders[1], name)
    assert (data.num_frames, data.frame_stride, data.image_size) == shape and data.cache_frames == 2
    assert clips.frame_stride == data.frame_stride and clips.image_size == data.image_size
    assert (before.max_steps, after.max_steps) == steps and after.head_init == "linear_probe"
    assert [run.get_warmup_steps(run.max_steps) for run in (before, after)] == [steps[0] // 20, steps[1] // 10]


def test_workers_that_persist_need_workers():
    for num_workers in (0, 2):
        words = ["--dataloader_persistent_workers", "true", "--dataloader_num_workers", str(num_workers)]
        training = parse("small/finetune", *REQUIRED, *words)[3]
        assert training.dataloader_persistent_workers == (num_workers > 0)


def test_rates_scale_with_the_total_batch(monkeypatch):
    training = parse("ucf101/pretrain", "--gradient_accumulation_steps", "8")[-1]
    assert training.total_batch_size == 192  # one process instead of eight, eight steps instead of one
    scaled = training.learning_rate, training.min_learning_rate, training.warmup_learning_rate
    assert scaled == pytest.approx((1e-3 * 192 / 256, 1e-5 * 192 / 256, 1e-6 * 192 / 256), rel=1e-12)


def test_a_rate_that_is_given_is_the_peak_itself_and_the_others_follow():
    training = parse("ucf101/pretrain", "--learning_rate", "2e-3")[-1]
    assert training.learning_rate == 2e-3
    assert (training.min_learning_rate, training.warmup_learning_rate) == pytest.approx((2e-5, 2e-6))


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_the_command_line_wins_over_the_recipe(tmp_path):
    recipe = write(tmp_path, "train_data: a.csv\noutput_dir: unused\nnum_frames: 8\nframe_stride: 2\n")
    _, data, _ = parse_recipe(*PRETRAINING, arguments=[recipe, "--num_frames", "4"])
    assert (data.train_data, data.num_frames, data.frame_stride) == ("a.csv", 4, 2)


def test_a_budget_on_the_command_line_replaces_the_other_kind_in_the_recipe(tmp_path):
    data = "train_data: a.csv\noutput_dir: unused\n"
    share = write(tmp_path, f"{data}keep_ratio: 0.3\n")
    model, *_ = parse_recipe(*PRETRAINING, arguments=[share, "--num_kept_tokens=38"])
    assert model.config_fields() == {"num_kept_tokens": 38}
    assert given_options(*PRETRAINING, arguments=[share, "--num_kept_tokens=38"]).keys() & {"keep_ratio"} == set()
    number = write(tmp_path, f"{data}num_kept_tokens: 76\n")
    model, *_ = parse_recipe(*PRETRAINING, arguments=[number, "--keep_ratio", "0.3"])
    assert model.config_fields() == {"keep_ratio": 0.3}
    both = write(tmp_path, f"{data}keep_ratio: 0.3\nnum_kept_tokens: 76\n")
    with pytest.raises(ValueError, match="keep_ratio and num_kept_tokens are both given"):
        parse_recipe(*PRETRAINING, arguments=[both])


def test_values_of_every_kind_survive_the_way_through_the_command_line(tmp_path):
    recipe = write(
        tmp_path,
        """
train_data: clips with spaces/train.csv   # a path
output_dir: unused
save_total_limit: null        # the default is a number
norm_pix_loss: false          # the default is None
logging_first_step: no        # the default is true
max_steps: -1                 # a negative number
base_learning_rate: 1e-3      # YAML takes this for a string
max_bad_share: 1              # an integer for a float
include_for_metrics: [loss, inputs]
label_names: []
accelerator_config: {split_batches: true, even_batches: false}
""",
    )
    model, data, training = parse_recipe(*PRETRAINING, arguments=[recipe])
    assert data.train_data == "clips with spaces/train.csv"
    assert training.save_total_limit is None
    assert model.norm_pix_loss is False and training.logging_first_step is False
    assert (training.max_steps, training.base_learning_rate, data.max_bad_share) == (-1, 1e-3, 1.0)
    assert training.include_for_metrics == ["loss", "inputs"] and training.label_names == []
    assert training.accelerator_config.split_batches and not training.accelerator_config.even_batches


def test_a_null_in_the_recipe_gives_way_to_the_command_line(tmp_path):
    recipe = write(tmp_path, "train_data: a\noutput_dir: unused\nsave_total_limit: null\n")
    assert parse_recipe(*PRETRAINING, arguments=[recipe, "--save_total_limit", "5"])[-1].save_total_limit == 5


@pytest.mark.parametrize(
    "text, message",
    [
        ("num_frame: 8\n", r"recipe.yaml: there is no option 'num_frame'; did you mean 'num_frames'"),
        ("rand_augment: x\n", r"recipe.yaml: there is no option 'rand_augment'"),  # an option of fine-tuning
        ("num_frames: 8\nnum_frames: 16\n", r"recipe.yaml has the option 'num_frames' 2 times"),
        ("- num_frames\n", r"recipe.yaml is a YAML list; it must be a mapping"),
        ("num_frames: [8\n", r"recipe.yaml is not a YAML file"),
    ],
)
def test_mistakes_in_a_recipe_are_named_with_the_file(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(*PRETRAINING, arguments=[write(tmp_path, text), *REQUIRED])


def test_mistakes_on_the_command_line_are_named():
    with pytest.raises(ValueError, match="there is no option '--num_frame'; did you mean 'num_frames'"):
        parse_recipe(*PRETRAINING, arguments=[*REQUIRED, "--num_frame", "8"])
    with pytest.raises(FileNotFoundError, match="absent.yaml"):
        parse_recipe(*PRETRAINING, arguments=["absent.yaml"])
    with pytest.raises(ValueError, match="--num_frames.*: invalid int value: 'many'; --help lists the options"):
        parse_recipe(*PRETRAINING, arguments=[*REQUIRED, "--num_frames", "many"])


@pytest.mark.parametrize(
    "option, message",
    [
        ("--frame_stride=0", "frame_stride is 0; it must be at least 1"),
        ("--max_bad_share=1.5", r"max_bad_share is 1.5; it must be in \[0, 1\]"),
        ("--keep_ratios=1.5", r"keep_ratios is 1.5; it must be in \(0, 1\]"),
        ("--layer_decay=0", r"layer_decay is 0.0; it must be in \(0, 1\]"),
        ("--ema_decay=1", "ema_decay is 1.0; it must be greater than 0 and less than 1"),
        ("--base_learning_rate=0", "base_learning_rate is 0.0; it must be greater than 0"),
        ("--warmup_epochs=-1", "warmup_epochs is -1.0; it must be at least 0"),
        ("--min_crop_area=2", r"min_crop_area is 2.0; it must be in \(0, 1\]"),
        ("--random_erasing=2", r"random_erasing is 2.0; it must be in \[0, 1\]"),
        ("--mixup=-1", "mixup is -1.0; it must be at least 0"),
        ("--remove_unused_columns=true", "remove_unused_columns is True, but has no effect: clips have no columns"),
        ("--train_data=", "train_data is not given"),
        ("--output_dir=", "output_dir is not given"),
    ],
)
def test_values_out_of_range_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(*FINETUNING, arguments=[*REQUIRED, option])


def test_options_without_effect_are_refused_before_anything_is_loaded():
    for name, value in (("train_sampling_strategy", "group_by_length"), ("neftune_noise_alpha", 5.0)):
        with pytest.raises(ValueError, match=f"{name} is {value!r}, but has no effect"):
            FineTuningArguments(output_dir="run", use_cpu=True, **{name: value})
    with pytest.raises(ValueError, match="few_shot_seed is 3, but has no effect without few_shot"):
        DataArguments(train_data="train.csv", few_shot_seed=3)
    with pytest.raises(ValueError, match="label_smoothing_factor is 0.1, but has no effect: pre-training has no"):
        PreTrainingArguments(output_dir="run", use_cpu=True, label_smoothing_factor=0.1)


def test_the_best_checkpoint_is_known_by_a_metric_that_there_is_and_by_data():
    options = {"output_dir": "run", "use_cpu": True}
    best = options | {"load_best_model_at_end": True}
    metrics = ("loss", "top1", "top5")
    for name in ("top1", "eval_top5", "loss"):
        plan_evaluation(FineTuningArguments(metric_for_best_model=name, **best), "val.csv", metrics)
    with pytest.raises(ValueError, match="metric_for_best_model is 'accuracy'; it must be one of loss, top1, top5"):
        plan_evaluation(FineTuningArguments(metric_for_best_model="accuracy", **best), "val.csv", metrics)
    for needy in (best, options | {"save_strategy": "best"}, options | {"metric_for_best_model": "top1"}):
        with pytest.raises(ValueError, match="need eval_data, which is not given"):
            plan_evaluation(FineTuningArguments(**needy), None, metrics)
    args = FineTuningArguments(**options)
    plan_evaluation(args, None, metrics)
    assert args.eval_strategy == "no"


def test_a_batch_that_leaves_many_videos_out_is_warned_of():
    args = FineTuningArguments(output_dir="run", use_cpu=True, per_device_train_batch_size=8)
    assert args.batch_warning(80) is None and args.batch_warning(88 + 7) is None
    assert "omits 7 of 15 training videos, which do not fill a batch of 8" in args.batch_warning(15)
    said = args.batch_warning(5)
    assert "A step takes 8 clips" in said and "more than the 5 training videos" in said
    args.dataloader_drop_last = False
    assert args.batch_warning(15) is None


def test_an_empty_checkpoint_replaces_that_of_the_recipe(tmp_path):
    recipe = write(tmp_path, "train_data: a\noutput_dir: unused\nmodel_name_or_path: runs/pretrain\n")
    assert parse_recipe(*FINETUNING, arguments=[recipe])[0].model_name_or_path == "runs/pretrain"
    assert parse_recipe(*FINETUNING, arguments=[recipe, "--model_name_or_path="])[0].model_name_or_path == ""


def test_explicit_fields_of_the_network_lie_over_the_size():
    arguments = [*REQUIRED, "--model_size", "small", "--num_hidden_layers", "3", "--token_selection", "tube"]
    config = parse_recipe(*PRETRAINING, arguments=arguments)[0].to_config(num_frames=8, image_size=32)
    assert (config.hidden_size, config.num_hidden_layers, config.token_selection) == (384, 3, "tube")
    assert (config.num_frames, config.image_size) == (8, 32)


def test_the_given_options_make_a_recipe_that_parses_to_the_same(tmp_path):
    import yaml

    arguments = [str(RECIPES / "ssv2" / "finetune.yaml"), "--num_frames", "8", "--model_name_or_path="]
    options = given_options(*FINETUNING, arguments=arguments)
    assert options["num_frames"] == 8 and options["horizontal_flip"] is False
    assert "image_size" not in options  # left at its default
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(options))
    for one, other in zip(
        parse_recipe(*FINETUNING, arguments=arguments), parse_recipe(*FINETUNING, arguments=[str(copy)]), strict=True
    ):
        assert str(one).replace("'", "") == str(other).replace("'", "")
