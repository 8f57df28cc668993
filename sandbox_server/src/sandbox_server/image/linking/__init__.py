"""Links the core modules of a component into one; `component_linker` is where to begin."""
