# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Model repositories: the card, and what is uploaded."""

from .card import write_card
from .publish import UploadError, publish, publish_space
