"""What the image holds beyond the standard library. The build of an image with packages puts its own in this place."""

MODULES = ()
"""Modules at the top level."""

REQUIRED = {}
"""For each package that was asked for, its modules at the top level, of which one must import."""
