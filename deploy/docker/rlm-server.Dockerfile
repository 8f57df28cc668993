# syntax=docker/dockerfile:1
# The RLM server. It calls models and never runs the code that they write, so there is no sandbox in this image.
# Build it from the root of the repository: docker build -f deploy/docker/rlm-server.Dockerfile -t rlm-server .
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
# What builds the wheels is pinned by the development lock; nothing of it gets into the image.
COPY requirements/dev.lock requirements/
RUN python -m venv /tools && /tools/bin/pip install --require-hashes -r requirements/dev.lock
COPY requirements/rlm_server.lock requirements/
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --require-hashes -r requirements/rlm_server.lock
COPY clients/python-api clients/python-api
COPY clients/python clients/python
COPY common common
COPY rlm_server rlm_server
RUN /tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels \
      ./clients/python-api ./clients/python ./common ./rlm_server && \
    /opt/venv/bin/pip install --no-deps --no-index /wheels/*.whl

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 rlm && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent rlm
COPY --from=build /opt/venv /opt/venv
COPY deploy/docker/healthcheck.py /opt/healthcheck.py
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "/opt/healthcheck.py", "127.0.0.1:50051", "rlm.v1.CompletionService"]
ENTRYPOINT ["rlm"]
CMD ["serve", "--listen", "0.0.0.0:50051", "--sandbox", "dns:///rlm-sandbox:50052"]
