"""What is wrong with an initialization: rules with sources, findings with remedies.

`weights` holds the rules that need the model alone, `signals` those that need a batch, `laws` those
that need a recipe; `run` puts their findings together.
"""
