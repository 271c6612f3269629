"""What the model is fed: templates, tokens and packed batches."""
