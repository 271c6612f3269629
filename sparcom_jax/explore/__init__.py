"""What single units do: when they are active, at which tokens, and what they write."""
