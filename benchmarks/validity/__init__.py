"""What the statistics can and cannot tell, on made-up counts in which the truth is known."""
