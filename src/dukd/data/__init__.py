"""From picture files to batches of patches."""
