# syntax=docker/dockerfile:1
# The sandbox server. It runs the code that models write, so there is no key, no model client and no RLM server here.
# Build it from the root of the repository: docker build -f deploy/docker/rlm-sandbox.Dockerfile -t rlm-sandbox .
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
# What builds the wheels is pinned by the development lock; nothing of it gets into the image.
COPY requirements/dev.lock requirements/
RUN python -m venv /tools && /tools/bin/pip install --require-hashes -r requirements/dev.lock
COPY requirements/sandbox_server.lock requirements/
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --require-hashes -r requirements/sandbox_server.lock
COPY clients/python-api clients/python-api
COPY common common
COPY sandbox_server sandbox_server
RUN /tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels \
      ./clients/python-api ./common ./sandbox_server && \
    /opt/venv/bin/pip install --no-deps --no-index /wheels/*.whl
# The guest image: the portable component, and its compiled form for CPUs like the one that this is built on. On another
# CPU the server compiles the component again when it starts. The files must be readable for the user below.
RUN RLM_SANDBOX_CACHE=/opt/guest-image /opt/venv/bin/rlm-sandbox image build && chmod -R a+rX /opt/guest-image

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 rlm && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent rlm && \
    install -d -o 10001 -g 10001 -m 0700 /var/cache/rlm-sandbox
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/guest-image /opt/guest-image
COPY deploy/docker/healthcheck.py /opt/healthcheck.py
COPY --chmod=0755 deploy/docker/sandbox-entrypoint.sh /opt/entrypoint.sh
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    GUEST_IMAGE=/opt/guest-image RLM_SANDBOX_CACHE=/var/cache/rlm-sandbox
USER 10001:10001
EXPOSE 50052
# The start period leaves time to compile the guest image for another CPU.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "/opt/healthcheck.py", "127.0.0.1:50052", "sandbox.v1.ExecuteService"]
ENTRYPOINT ["/opt/entrypoint.sh"]
CMD ["serve", "--listen", "0.0.0.0:50052"]
