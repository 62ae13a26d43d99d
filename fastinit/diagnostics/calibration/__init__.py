"""Scales found from data: one pass, in which each layer is given the size of signal it should have.

`layers` knows what a layer is, `wanted` what size it should have, `passing` the pass, `run` the two
public functions and their result.
"""
