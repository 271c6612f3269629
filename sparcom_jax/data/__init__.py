"""Instructions, tokens and batches."""
