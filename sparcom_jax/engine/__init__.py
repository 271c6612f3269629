"""The model on its devices, and texts through it."""
