"""From lists of video files to batches of clips: tables of videos, data sets of clips, augmentation, collation."""
