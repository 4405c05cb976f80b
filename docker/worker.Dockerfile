# The worker: contracts, infra, models with the bundled checkpoint, and worker. Build it from the
# repository's root:
#   docker build -f docker/worker.Dockerfile -t unclip-worker .
# The package index's torch runs on CPU and GPU, at some 6 GB. For a smaller one for the CPU, add
#   --build-arg TORCH_INDEX_URL=…   (an index with torch and torchvision without CUDA)
# Behind a mirror of the package index, add --build-arg PIP_INDEX_URL=…

# An operator pins the base image by its digest: docs/operations/supply-chain.md.
ARG BASE_IMAGE

FROM ${BASE_IMAGE:-python:3.11-slim-bookworm} AS build
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /project
COPY requirements/build.txt ./
RUN pip install --require-hashes --only-binary :all: -r build.txt
# There is no package here yet: this installs the distribution's name and version only, which
# images carry.
COPY pyproject.toml README.md LICENSE ./
RUN pip install --no-deps --no-build-isolation --target /app .
COPY models /app/models
COPY contracts /app/contracts
COPY infra /app/infra
COPY worker /app/worker
COPY docker/worker_health.py /app/worker_health.py
# The file system is read-only later, so bytecode is compiled now. The files become readable for
# all users, whatever the umask of the checkout was.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app && chmod -R a+rX /app

FROM ${BASE_IMAGE:-python:3.11-slim-bookworm}
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN groupadd --gid 10001 unclip && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin unclip
# torch is the largest layer and separate, so that a change of other packages does not fetch it.
# Another index has other files, whose hashes the lock does not have: its versions hold.
COPY requirements/torch.txt /app/requirements/
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
    pip install --no-deps --index-url "$TORCH_INDEX_URL" \
        $(grep -oE '^torch(vision)?==[0-9.]+' /app/requirements/torch.txt); \
    else \
    pip install --no-deps --require-hashes --only-binary :all: -r /app/requirements/torch.txt; \
    fi
COPY requirements/worker.txt /app/requirements/
RUN pip install --no-deps --require-hashes --only-binary :all: -r /app/requirements/worker.txt && \
    pip check
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
# Checkpoints are folders: nothing is downloaded from a hub.
ENV HOME=/tmp PYTHONPATH=/app HF_HUB_OFFLINE=1
STOPSIGNAL SIGTERM
# The timeout is long because a worker on the CPU leaves little of it to others.
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s CMD ["python", "worker_health.py"]
CMD ["python", "-m", "worker"]
