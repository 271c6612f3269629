"""The rows of instructions: their reader, HexaInst, its card and checks, and its building from corpora."""
