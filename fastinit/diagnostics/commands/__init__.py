"""What `python -m fastinit` runs: each command a function that returns a result."""
