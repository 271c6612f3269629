"""Instruction-specific neurons and experts."""
