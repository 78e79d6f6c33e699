"""What every protocol needs around its numbers: the split, the model's identity, and parts that are kept."""
