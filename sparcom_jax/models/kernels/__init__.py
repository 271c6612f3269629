"""The parts of the forward pass that are done in one way on one kind of device and in another on the next."""
