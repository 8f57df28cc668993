"""sandbox.v1.ExecuteService: the gRPC face of sandboxes."""
