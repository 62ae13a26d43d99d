"""How signals travel through a network at its initialization: measured, and as theory has it.

`trace` measures, `mean_field` predicts, `propagation` puts the two side by side.
"""
