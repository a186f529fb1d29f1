"""Pre-train VideoMS on videos without labels. The same command resumes an interrupted run.

videoms pretrain ucf101/pretrain --output_dir runs/ucf101/pretrain
torchrun --nproc_per_node 8 -m videoms_hf pretrain --train_data my/videos --output_dir runs/mine --num_train_epochs 100
"""

import sys
from collections.abc import Sequence

from transformers import set_seed

from videoms_hf.command_line import given_options, parse_recipe, run
from videoms_hf.data.collate import collate_clips
from videoms_hf.data.transforms import processor_of
from videoms_hf.training import (
    DataArguments,
    ModelArguments,
    PreTrainingArguments,
    VideoMSTrainer,
    begin_run,
    carry_out,
    evaluation_clips,
    plan_evaluation,
    pretraining_clips,
    pretraining_model,
    record_data,
    training_table,
)


KINDS = (ModelArguments, DataArguments, PreTrainingArguments)


def main(arguments: Sequence[str] | None = None) -> None:
    model_args, data_args, training_args = parse_recipe(*KINDS, arguments=arguments, description=__doc__)
    plan_evaluation(training_args, data_args.eval_data, metrics=("loss",))
    was_begun = begin_run("pretrain", training_args, given_options(*KINDS, arguments=arguments))
    table = training_table(data_args, require_labels=False)
    record_data(training_args, "train_data", data_args.train_data, table)
    set_seed(training_args.seed)
    model, loading_report = pretraining_model(model_args, data_args)
    trainer = VideoMSTrainer(
        model,
        training_args,
        data_collator=collate_clips,
        eval_data_collator=collate_clips,
        train_dataset=pretraining_clips(table, data_args, model.config),
        eval_dataset=evaluation_clips(data_args, model.config),
        processing_class=processor_of(model.config, data_args.frame_stride),
    )
    say = trainer.accelerator.print
    if was_begun:
        say(f"Resuming the run in {training_args.output_dir}")
    if loading_report is not None:
        say(loading_report)
    if metrics := carry_out(trainer, say):
        say(f"loss on {len(trainer.eval_dataset)} validation videos: {metrics['eval_loss']:.4f}")


if __name__ == "__main__":
    sys.exit(run(main))
