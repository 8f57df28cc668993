"""The sources of the prelude. They are sent to sandboxes and run there; the server never imports them."""
