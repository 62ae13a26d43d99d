"""Presets: published and widespread initializations, each a function that returns a `Recipe`."""
