# The worker: contracts, infra, models with the bundled checkpoint, and worker. Build it from the
# repository's root:
#   docker build -f docker/worker.Dockerfile -t unclip-worker .
# The package index's torch runs on CPU and GPU, at some 6 GB. For a smaller one for the CPU, add
#   --build-arg TORCH_INDEX_URL=…   (an index with torch and torchvision without CUDA)
# Behind a mirror of the package index, add --build-arg PIP_INDEX_URL=…

FROM python:3.11-slim-bookworm AS build
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /project
# The requirements are files, so that they are installed again only when they change.
COPY pyproject.toml ./
RUN python -c "import tomllib; \
    p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    names = ('worker', 'store', 'telemetry', 'upsampling'); \
    extras = [p['optional-dependencies'][name] for name in names]; \
    print(*p['dependencies'], *sum(extras, []), sep='\n')" > requirements.txt && \
    { grep '^torch' requirements.txt; echo torchvision; } > torch.txt
# There is no package here yet: this installs the distribution's name and version only, which
# images carry.
COPY README.md LICENSE ./
RUN pip install --no-deps --target /app .
COPY models /app/models
COPY contracts /app/contracts
COPY infra /app/infra
COPY worker /app/worker
COPY docker/worker_health.py /app/worker_health.py
# The file system is read-only later, so bytecode is compiled now. The files become readable for
# all users, whatever the umask of the checkout was.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app && chmod -R a+rX /app

FROM python:3.11-slim-bookworm
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN groupadd --gid 10001 unclip && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin unclip
# torch is the largest layer and separate, so that a change of other packages does not fetch it.
COPY --from=build /project/torch.txt /app/torch.txt
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r /app/torch.txt
COPY --from=build /project/requirements.txt /app/requirements.txt
RUN pip install -r /app/requirements.txt
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
# Checkpoints are folders: nothing is downloaded from a hub.
ENV HOME=/tmp PYTHONPATH=/app HF_HUB_OFFLINE=1
STOPSIGNAL SIGTERM
# The timeout is long because a worker on the CPU leaves little of it to others.
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s CMD ["python", "worker_health.py"]
CMD ["python", "-m", "worker"]
