"""Which units are a category's: scores and masks, one file a way of choosing."""
