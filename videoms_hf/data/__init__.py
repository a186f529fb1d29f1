# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""From files of videos to clips, in three groups of modules; each group imports only those before it.

Tables of videos: `tables` (what a table is, parts of it, its labels), `annotations` (`read_videos`: any list, folder,
stored table), `official_annotations`, `stored_tables`, `shards`.

Clips for the network: `dataset` (random clips, fixed views), `streaming`, `seeding`, `transforms`, `collate`.

Offline tools: `preparation`, `transcoding`, `scanning`, and `workers`, which run them.
"""
