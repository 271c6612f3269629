"""The decoder, its taps and its edits."""
