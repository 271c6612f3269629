"""What an analysis writes, and what a report reads."""
