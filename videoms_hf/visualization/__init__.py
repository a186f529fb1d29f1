# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of what the models do: which tokens they kept, and what they reconstructed."""
