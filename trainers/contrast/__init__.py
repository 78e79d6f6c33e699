"""The contrastive loss: InfoNCE, synthetic negatives in closed form, and what chance decides about them."""
