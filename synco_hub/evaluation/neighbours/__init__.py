"""Nearest neighbours in feature space: the search, and the k-NN accuracies that follow from it."""
