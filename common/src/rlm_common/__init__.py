"""What both servers need to speak gRPC well: errors with details, validation, health, reflection, draining."""
