"""Checkpoints of others become checkpoints of this package."""
