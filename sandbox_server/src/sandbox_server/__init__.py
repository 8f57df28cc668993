"""Runs Python code that nobody trusts in WebAssembly sandboxes, and serves them over gRPC as `sandbox.v1`.

From the inside out: `guest` is what is compiled into the image, `image` builds and caches it, `wasm` hosts it on
wasmtime, `sandbox` and `session` run cells in it, `worker` puts that into processes behind walls, `service` is the gRPC
face, `server` puts a server together, and `cli` is the `rlm-sandbox` command.
"""
