"""The loop of recursive language models. It knows neither gRPC nor wasmtime nor any model library: see `ports`."""
