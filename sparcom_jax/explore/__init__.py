"""What single units do: when they are active, at which tokens, and what they write; and what all do at one prompt."""
