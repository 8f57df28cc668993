"""Generated messages and stubs: `rlm_api.rlm.v1` and `rlm_api.sandbox.v1`. Written by `make generate`."""
