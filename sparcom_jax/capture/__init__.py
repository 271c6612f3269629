"""Activation statistics of a model over instructions, into the store."""
