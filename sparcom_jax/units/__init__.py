"""What is counted, chosen and acted on: neurons and experts."""
