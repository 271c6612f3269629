"""Runs and sets on disk."""
