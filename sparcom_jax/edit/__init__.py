"""Units switched off or scaled in a checkpoint."""
