"""A model's own initialization, done again: which code runs, and what it did, as data."""
