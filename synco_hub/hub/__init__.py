"""Names, conversion and publication of checkpoints."""
