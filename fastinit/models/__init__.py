"""Whole models: filled in one call, keyed by name, from meta if need be, with a report."""
