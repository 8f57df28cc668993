"""Worker processes: all WebAssembly runs in them, behind walls of the operating system."""
