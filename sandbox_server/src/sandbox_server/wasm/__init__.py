"""Hosts the guest component on wasmtime: engine, instances, the WASI that they see, time limits."""
