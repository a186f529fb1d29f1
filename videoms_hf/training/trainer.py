# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""VideoMSTrainer: transformers' Trainer with what this method needs in addition."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import torch
from huggingface_hub import CommitInfo, HfApi
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, default_data_collator, get_wsd_schedule, set_seed
from transformers.utils import logging

from ..configuration_videoms import noise_lengths
from ..data.collate import collate_seeded
from ..data.seeding import EpochSampler, SeededClips
from ..data.streaming import ClipStream, SeededStream, stream_loader
from ..data.tables import video_name
from ..data.transforms import normalize, pixel_statistics
from ..hub import publish, write_card
from ..hub.card import as_list
from ..modeling_videoms import VideoMSForPreTraining
from ..video_processing_videoms import VideoMSVideoProcessor
from .checkpoints import (
    check_complete,
    mark_complete,
    mark_incomplete,
    newest_complete_checkpoint,
    remove_old_checkpoints,
    set_incomplete_aside,
)
from .optimization import WeightAverage, cosine_value, parameter_groups
from .reporting import StepMeter, lowest_rate, write_training_log
from .training_arguments import TrainingArguments


logger = logging.get_logger(__name__)

AVERAGE_FILE = "average.safetensors"
OWN_WARMUP = ("cosine", "warmup_stable_decay")  # schedules that know `warmup_epochs`


class VideoMSTrainer(Trainer):
    """Trainer for [`VideoMSForPreTraining`] and [`VideoMSForVideoClassification`].

    It adds the official parameter groups and schedule; clips and selection noise that depend on seed, epoch and video
    alone; a collator for evaluation, which drops no item; an average of the weights; checkpoints known to be complete;
    a stop at the first non-finite loss; and logs of speed and selection.

    Args:
        data_collator: batches training items; what is random in it is seeded.
        eval_data_collator: batches evaluation items, by default by stacking.
    """

    args: TrainingArguments

    def __init__(self, *positional, eval_data_collator: Callable[[list[dict]], dict] | None = None, **named):
        super().__init__(*positional, **named)
        self.eval_data_collator = eval_data_collator or default_data_collator
        # The training collator smooths labels; Trainer's smoother takes no soft labels and would also change the
        # evaluation loss.
        self.label_smoother = None
        if isinstance(self.processing_class, VideoMSVideoProcessor):  # saved with the model, so they must agree
            self.model.config.image_mean, self.model.config.image_std = pixel_statistics(self.processing_class)
        self.is_pretraining = isinstance(self.bare_model(), VideoMSForPreTraining)
        if self.is_pretraining:
            self.label_names = [self.model.main_input_name]  # otherwise Trainer finds no labels and computes no loss
            if self.args.freeze_patch_embeddings:
                self.bare_model().videoms.embeddings.patch_embeddings.requires_grad_(False)
        if self.args.fsdp and not self.is_fsdp_enabled:
            logger.warning(
                "fsdp is set, but nothing is sharded: accelerate shards among processes that each have a GPU (or "
                "another accelerator), and not on CPUs"
            )
        if self.args.ema_decay is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError("ema_decay needs whole weights on every process; it does not work with FSDP or DeepSpeed")
        self.average: WeightAverage | None = None
        self.meter = StepMeter()
        self.resumed_from: str | None = None
        self.stream: SeededStream | None = None
        self._flops = functools.cache(functools.partial(self.bare_model().flops, training=True))
        self.add_callback(_TrainingCallback(self))

    def bare_model(self, model=None):
        """`model`, by default the trained one, without the wrappers of DDP and torch.compile."""
        return self.accelerator.unwrap_model(self.model if model is None else model, keep_torch_compile=False)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """The optimiser of `args.optim` on the groups of [`parameter_groups`]."""
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            depth, args = self.bare_model(model).config.num_hidden_layers, self.args
            groups = parameter_groups(model, depth, options.pop("lr"), args.weight_decay, args.layer_decay)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The official schedule for `lr_scheduler_type` "cosine", Trainer's own for others.

        "warmup_stable_decay" decays linearly over the last quarter of the steps, unless `lr_scheduler_kwargs` differ.
        """
        args, num_steps = self.args, num_training_steps
        if self.lr_scheduler is not None or args.lr_scheduler_type not in OWN_WARMUP:
            return super().create_scheduler(num_steps, optimizer)
        optimizer, num_warmup_steps = optimizer or self.optimizer, self.num_warmup_steps(num_steps)
        if args.lr_scheduler_type == "warmup_stable_decay":
            options = {"num_decay_steps": min(num_steps // 4, num_steps - num_warmup_steps), "decay_type": "linear"}
            options |= {"num_training_steps": num_steps, **(args.lr_scheduler_kwargs or {})}
            self.lr_scheduler = get_wsd_schedule(optimizer, num_warmup_steps, **options)
        else:
            values = num_steps, args.learning_rate, args.min_learning_rate, num_warmup_steps, args.warmup_learning_rate
            self.lr_scheduler = LambdaLR(optimizer, lambda step: cosine_value(step, *values) / values[1])
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def num_warmup_steps(self, num_training_steps: int) -> int:
        """Steps of the warm-up: `warmup_steps` or, with the schedules of [`create_scheduler`], `warmup_epochs`."""
        num_steps = self.args.get_warmup_steps(num_training_steps)
        if self.args.warmup_steps == 0 and self.args.lr_scheduler_type in OWN_WARMUP:
            num_steps = int(self.args.warmup_epochs * self.num_steps_per_epoch) or num_steps
        if num_steps <= num_training_steps:
            return num_steps
        shortened = num_training_steps // 10
        logger.warning_once(
            f"The warm-up of {num_steps} steps is longer than the run of {num_training_steps}; it is shortened to "
            f"{shortened} (warmup_epochs, warmup_steps)"
        )
        return shortened

    def set_initial_training_values(self, args, dataloader):
        """Trainer's counts of epochs and steps; warm-up and sampler need the steps of an epoch."""
        if len(dataloader) == 0:
            raise ValueError(
                f"{len(self.train_dataset)} training videos do not fill one batch of "
                f"{args.per_device_train_batch_size} on each of {args.world_size} processes; lower "
                "per_device_train_batch_size, or set dataloader_drop_last to false"
            )
        values = super().set_initial_training_values(args, dataloader)
        self.num_steps_per_epoch = values[1]
        return values

    def get_train_dataloader(self):
        """Loader of clips that depend on seed, epoch and video alone."""
        noise = noise_lengths(self.bare_model().config, self.is_pretraining)
        clips = SeededClips(self.train_dataset, self.args.data_seed, noise)
        collate = functools.partial(collate_seeded, collate=self.data_collator, seed=self.args.data_seed)
        if isinstance(self.train_dataset, ClipStream):
            loader = stream_loader(clips, self.args, collate)
            self.stream = loader.dataset
            return loader
        with _set(self, train_dataset=clips, data_collator=collate):
            return super().get_train_dataloader()

    def num_examples(self, dataloader) -> int:
        """Videos of an epoch, of all processes."""
        num_examples = super().num_examples(dataloader)
        return num_examples * (self.args.world_size if isinstance(dataloader.dataset, SeededStream) else 1)

    def _get_train_sampler(self, train_dataset=None):
        self.sampler = EpochSampler(len(self.train_dataset), self.args.data_seed)
        return self.sampler

    def get_eval_dataloader(self, eval_dataset=None):
        """Loader of every evaluation item, with the evaluation collator."""
        with _set(self, data_collator=self.eval_data_collator), _set(self.args, dataloader_drop_last=False):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        """Loader of every test item, with the evaluation collator."""
        with _set(self, data_collator=self.eval_data_collator), _set(self.args, dataloader_drop_last=False):
            return super().get_test_dataloader(test_dataset)

    def _prepare_inputs(self, inputs: dict) -> dict:
        # With DeepSpeed, Trainer would round the pixels to bfloat16, and so motion and targets.
        inputs = {name: value.to(self.args.device) for name, value in inputs.items()}
        pixels, config = inputs.get(self.model.main_input_name), self.model.config
        if pixels is not None and pixels.dtype == torch.uint8:
            inputs[self.model.main_input_name] = normalize(pixels, config.image_mean, config.image_std)
        return inputs

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Trainer's batches of one step; the waiting time is counted."""
        with self.meter.timed("waited_seconds"):
            return super().get_batch_samples(epoch_iterator, num_batches, device)

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        """Trainer's loss; the tokens selected in training are counted.

        In training, a loss that is not finite raises `FloatingPointError` before the backward pass.
        """
        unused = ("video_id", "labels") if self.is_pretraining else ("video_id",)
        wanted = {name: value for name, value in inputs.items() if name not in unused}
        if model.training and (keep_ratio := self.args.step_keep_ratio(self.state.global_step)) is not None:
            wanted["keep_ratio"] = keep_ratio
        loss, outputs = super().compute_loss(model, wanted, True, num_items_in_batch)
        if model.training:
            if not torch.isfinite(loss).all():
                table, ids = getattr(self.train_dataset, "table", None), inputs.get("video_id", torch.empty(0))
                names = [str(i) if table is None else video_name(table[i]) for i in ids.tolist()]
                raise FloatingPointError(
                    f"the loss is {loss.mean().item()} at step {self.state.global_step + 1}, learning rate "
                    f"{self.lr_scheduler.get_last_lr()[0]:.3g}, in the batch of the videos {', '.join(names)}. If "
                    "they are intact, lower the learning rate, clip gradients (max_grad_norm 1) or train in float32 "
                    "(bf16 false, fp16 false)"
                )
            self.meter.count(outputs, len(inputs[self.model.main_input_name]))
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs: dict, prediction_loss_only: bool, ignore_keys: list[str] | None = None):
        """Trainer's step without duplicated clips in the loss.

        Accelerate pads the last batches of several processes with clips from the beginning. It removes their logits;
        the loss, a mean over a batch, is computed again without them.
        """
        result = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return result
        num_clips = len(inputs[self.model.main_input_name])
        num_own = min(max(state.remainder - self.args.process_index * num_clips, 1), num_clips)
        own = {name: value[:num_own] for name, value in inputs.items()}
        return super().prediction_step(model, own, True, ignore_keys)[0], *result[1:]

    def evaluation_loop(self, *positional, **named):
        """Trainer's loop, with the average of the weights if there is one; training's generators stay as they were."""
        # A run that is killed here resumes from a checkpoint of the same step, without this evaluation.
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with self.meter.timed("begin"), self._averaged(), torch.random.fork_rng(devices):
            return super().evaluation_loop(*positional, **named)

    def _averaged(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def train(self, resume_from_checkpoint: str | os.PathLike | bool | None = None, *positional, **named):
        """Trainer's training. `True` resumes from the newest complete checkpoint, if any, and renames incomplete ones.

        A path must be a complete checkpoint.
        """
        if resume_from_checkpoint is True:
            with self.args.main_process_first(local=False, desc="looking for a checkpoint"):
                if self.is_world_process_zero():
                    for path in set_incomplete_aside(self.args.output_dir):
                        logger.warning(f"An incomplete checkpoint is renamed to {path}")
                resume_from_checkpoint = newest_complete_checkpoint(self.args.output_dir)
        elif resume_from_checkpoint:
            check_complete(resume_from_checkpoint)
        has_state = self.is_deepspeed_enabled or (Path(resume_from_checkpoint or "") / "scheduler.pt").exists()
        if resume_from_checkpoint and not has_state:
            raise ValueError(
                f"{resume_from_checkpoint} has no state of the optimiser (save_only_model?), so the run cannot resume "
                "from it; start another run with it as model_name_or_path"
            )
        self.resumed_from = os.fspath(resume_from_checkpoint) if resume_from_checkpoint else None
        if self.is_world_process_zero() and (warning := self.args.batch_warning(len(self.train_dataset))):
            logger.warning(warning)
        return super().train(self.resumed_from, *positional, **named)

    def _save_checkpoint(self, model, trial):
        """Trainer's checkpoint with the average; older ones are removed once it is complete."""
        run_dir = self._get_output_dir(trial)
        checkpoint = Path(run_dir) / f"checkpoint-{self.state.global_step}"
        try:
            with self.meter.timed("begin"), _set(self.args, save_total_limit=None):
                if self.args.should_save:
                    mark_incomplete(checkpoint)
                super()._save_checkpoint(model, trial)
                if self.args.should_save and self.average is not None:
                    self.average.save(checkpoint / AVERAGE_FILE)
                if self.args.should_save and self.stream is not None:
                    self.stream.save_order(checkpoint)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    mark_complete(checkpoint)
        except Exception as error:  # torch and safetensors raise their own errors for a full disk
            good = newest_complete_checkpoint(run_dir)
            raise RuntimeError(
                f"{checkpoint} could not be saved ({error}). Once there is space and permission, the same command "
                f"resumes from {'the beginning' if good is None else good}"
            ) from error
        if self.args.should_save:
            remove_old_checkpoints(run_dir, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _load_best_model(self):
        super()._load_best_model()
        if self.average is not None:
            self.average.load(Path(self.state.best_model_checkpoint) / AVERAGE_FILE)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        """Trainer's save, with the average as weights if there is one (a checkpoint has both)."""
        with contextlib.nullcontext() if _internal_call else self._averaged():
            super().save_model(output_dir, _internal_call)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        **facts,
    ) -> None:
        """Write the card of the output folder. The arguments are Trainer's, and `facts` as for [`~hub.write_card`].

        `tasks` and `dataset_args` are ignored: the task follows from the model, and the recipe has the rest.
        """
        facts |= {"language": language, "license": license, "tags": tags, "datasets": dataset_tags}
        facts["base_model"] = finetuned_from or facts.get("base_model")
        facts["data"] = facts.get("data") or (", ".join(dataset) if isinstance(dataset, (list, tuple)) else dataset)
        if self.is_world_process_zero():
            write_card(self.args.output_dir, name=model_name, **facts)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **facts,
    ) -> CommitInfo | Future | None:
        """The commit of all files of the model ([`~hub.publish`]), with the average of the weights if there is one.

        Other processes than the first return `None`; without `blocking` the result is a future. `facts` are those of
        [`create_model_card`], and `local_paths`; `model_name` is the name of the repository.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        with self._averaged():
            self.save_model(_internal_call=True)
        write_training_log(self)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()  # of a checkpoint
        local_paths, name = facts.pop("local_paths", False), facts.pop("model_name", None)
        facts["tags"] = [*as_list(facts.get("tags")), *as_list(getattr(self.model, "model_tags", None))]
        self.create_model_card(model_name=name, local_paths=local_paths, **facts)  # the card remembers them
        task = functools.partial(
            publish,
            self.args.output_dir,
            self.hub_model_id or self.args.hub_model_id or name or Path(self.args.output_dir).absolute().name,
            private=self.args.hub_private_repo if private is None else private,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            local_paths=local_paths,
        )
        return task() if blocking else HfApi().run_as_future(task)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log; a training loss is logged with speed, memory and selection since the last one."""
        if "loss" in logs:
            logs |= self.meter.read(self.args.world_size, self.accelerator.gather)
            logs |= lowest_rate(self.optimizer, logs["learning_rate"])
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict) -> int:
        """FLOPs of a batch (2 per MAC), forward and backward, for Trainer's total_flos; the log has their mean."""
        keep_ratio = self.args.step_keep_ratio(self.state.global_step)
        flops = 2 * self._flops(keep_ratio=keep_ratio) * len(inputs[self.model.main_input_name])
        self.meter.flops += flops
        return flops


class _TrainingCallback(TrainerCallback):
    """The part of VideoMSTrainer between Trainer's steps."""

    def __init__(self, trainer: VideoMSTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        trainer = self.trainer
        # Dropout and stochastic depth draw from the global generators, differently on every process. A resumed run
        # gets its checkpoint's states after this.
        set_seed(args.seed + args.process_index)
        if args.ema_decay is not None:
            trainer.average = WeightAverage(trainer.bare_model(model), args.ema_decay)
            if trainer.resumed_from is not None:
                trainer.average.load(Path(trainer.resumed_from) / AVERAGE_FILE)
        trainer.meter.restart()

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        if args.weight_decay_end is not None:
            decay = cosine_value(state.global_step, state.max_steps, args.weight_decay, args.weight_decay_end)
            for group in optimizer.param_groups:
                group["weight_decay"] = decay if group["weight_decay"] > 0 else 0.0

    def on_epoch_begin(self, args, state, control, **kwargs):
        trainer, stream = self.trainer, self.trainer.stream
        epoch, step = divmod(state.global_step, trainer.num_steps_per_epoch)
        if stream is None:
            trainer.sampler.epoch = epoch
            return
        if step > 0:
            stream.check_order(trainer.resumed_from)
        stream.set_epoch(epoch, skip=step * args.gradient_accumulation_steps)

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self.trainer.average is not None:
            self.trainer.average.update()


@contextlib.contextmanager
def _set(thing, **attributes) -> Iterator[None]:
    """Within this context `thing` has these attributes."""
    before = {name: getattr(thing, name) for name in attributes}
    vars(thing).update(attributes)
    try:
        yield
    finally:
        vars(thing).update(before)
