"""Run directories: what is in them, read, compared and shown."""
