"""Classifiers on a pretrained backbone: what linear probe (7.5) and fine-tuning (7.6) are made of."""
