"""The model card: facts that people wrote, measured results, the paper's numbers."""
