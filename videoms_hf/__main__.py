# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""`python -m videoms_hf` is `videoms`, for launchers such as torchrun that start modules."""

from .command import main


main()
