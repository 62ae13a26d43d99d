"""Watching activations: what is measured, on which modules and steps, and what it tells."""
