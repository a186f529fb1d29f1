"""From lists of video files to batches of clips: tables of videos, datasets of clips, augmentation, collation."""
