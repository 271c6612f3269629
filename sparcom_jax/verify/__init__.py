"""A converted model against transformers on the same checkpoint."""
