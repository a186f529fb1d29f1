"""Fine-tune VideoMS to classify videos. The same command resumes an interrupted run.

videoms finetune ucf101/finetune --model_name_or_path MCG-NJU/videomae-base
videoms finetune --train_data my/train.csv --eval_data my/val.csv --model_name_or_path runs/mine --output_dir runs/new
"""

import sys
from collections.abc import Sequence

from transformers import set_seed

from videoms_hf.command_line import given_options, parse_recipe, run
from videoms_hf.data.collate import MixingCollator, collate_clips
from videoms_hf.data.transforms import processor_of
from videoms_hf.evaluation.metrics import compute_accuracies
from videoms_hf.training import (
    AugmentationArguments,
    DataArguments,
    FineTuningArguments,
    ModelArguments,
    VideoMSTrainer,
    begin_run,
    carry_out,
    classification_model,
    evaluation_clips,
    finetuning_clips,
    init_head,
    plan_evaluation,
    record_data,
    training_table,
)


KINDS = (ModelArguments, DataArguments, AugmentationArguments, FineTuningArguments)


def main(arguments: Sequence[str] | None = None) -> None:
    model_args, data_args, augmentation_args, training_args = parse_recipe(
        *KINDS, arguments=arguments, description=__doc__
    )
    plan_evaluation(training_args, data_args.eval_data, metrics=("loss", "top1", "top5"))
    was_begun = begin_run("finetune", training_args, given_options(*KINDS, arguments=arguments))
    table = training_table(data_args, require_labels=True)
    class_names = table.features["label"].names
    record_data(training_args, "train_data", data_args.train_data, table, class_names)
    set_seed(training_args.seed)
    model, loading_report = classification_model(model_args, data_args, class_names)
    trainer = VideoMSTrainer(
        model,
        training_args,
        data_collator=MixingCollator(
            len(class_names), training_args.label_smoothing_factor, augmentation_args.mixup, augmentation_args.cutmix
        ),
        eval_data_collator=collate_clips,
        train_dataset=finetuning_clips(table, data_args, augmentation_args, model.config),
        eval_dataset=evaluation_clips(data_args, model.config, class_names),
        processing_class=processor_of(model.config, data_args.frame_stride),
        compute_metrics=compute_accuracies,
    )
    say = trainer.accelerator.print
    if was_begun:
        say(f"Resuming the run in {training_args.output_dir}")
    say(loading_report or "From scratch: no weights were loaded")
    if training_args.head_init == "linear_probe":
        init_head(trainer, table, data_args, say)
    if metrics := carry_out(trainer, say):
        say(f"{len(trainer.eval_dataset)} validation videos, the middle clip of each:")
        say(f"top-1 {metrics['eval_top1']:.2%}, top-5 {metrics['eval_top5']:.2%}, chance {1 / len(class_names):.2%}")


if __name__ == "__main__":
    sys.exit(run(main))
