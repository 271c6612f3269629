"""What the sets say: generality and uniqueness of one model, change and likeness of two."""
