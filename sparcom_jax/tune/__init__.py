"""Training of what a unit set names, of whole layers, of all, or of a low rank."""
