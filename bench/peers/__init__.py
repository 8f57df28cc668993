"""The sandbox server beside other Python sandboxes, in one run. See `make bench-peers` and docs/benchmarks.md."""
