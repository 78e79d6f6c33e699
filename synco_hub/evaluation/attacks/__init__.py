"""Adversarial attacks: their settings, the classifier they see, and what is kept and reported of them."""
