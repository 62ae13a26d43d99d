"""The fill of one tensor: what a call means, and the way to the compiled operators."""
