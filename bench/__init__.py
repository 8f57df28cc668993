"""Benchmarks: what the servers cost, each figure beside a floor that was measured in the same run.

`python -m bench` measures everything and prints a table; see docs/benchmarks.md for the method.
"""
