"""Builds, compiles and caches the guest image."""
