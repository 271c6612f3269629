"""Tiny models trained from scratch, saved as genuine checkpoints."""
