"""From Hugging Face checkpoints to Flax parameters and back."""
