"""Shifted test sets: what they are, which classes they share with ImageNet, and accuracies over them."""
