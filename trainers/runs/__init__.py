"""A run from its flags to its last checkpoint: started, saved whole, interrupted, continued to the same bits."""
