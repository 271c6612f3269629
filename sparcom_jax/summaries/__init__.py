"""What a command says when it is done: one screen of what it made and of what that shows."""
