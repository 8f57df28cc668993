#!/bin/sh
# Puts links to the guest image that was built into the container image into the cache, which may be an empty volume or
# tmpfs of a container with a read-only root, and runs rlm-sandbox with the given arguments.
set -eu
for file in "$GUEST_IMAGE"/*.wasm* "$GUEST_IMAGE"/*.cwasm* "$GUEST_IMAGE"/*.memory*; do
  target=$RLM_SANDBOX_CACHE/${file##*/}
  if [ -e "$file" ] && ! [ -e "$target" ]; then
    ln -sf "$file" "$target"
  fi
done
exec rlm-sandbox "$@"
