"""JSON Schemas of what clients give, and the bounds within which they can be checked in time."""
