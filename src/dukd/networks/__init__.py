"""Super-resolution networks: one file each."""
