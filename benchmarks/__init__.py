"""Benchmarks of fastinit against what a user would call otherwise; see README.md.

`cases` says what is measured and what is to be reached, `contenders` who takes part, `laws` and
`checks` refuse a wrong result before it is timed, `timing` takes the time, `report` writes it down.
"""
