# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of the official code and of transformers' VideoMAE as models of this package, and back."""

from .models import Checkpoint, convert_checkpoint, is_foreign, name_classes, official_weights, read_checkpoint


__all__ = ["Checkpoint", "convert_checkpoint", "is_foreign", "name_classes", "official_weights", "read_checkpoint"]
