# The worker: contracts, models with the embedded default checkpoint, and worker. Built from the repository's root:
#   docker build -f docker/worker.Dockerfile -t unclip-worker .
# The index's torch serves CPU and GPU alike, at some 6 GB. A smaller one, for the CPU alone:
#   --build-arg TORCH_INDEX_URL=…   (an index that has torch and torchvision without CUDA)
# Behind a mirror of the package index: --build-arg PIP_INDEX_URL=…

FROM python:3.11-slim-bookworm AS floors
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /project
# pyproject.toml's packages become files of their own, so that they are installed anew only when they change.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*p['dependencies'], *p['optional-dependencies']['worker'], *p['optional-dependencies']['store'], *p['optional-dependencies']['upsampling'], sep='\n')" > requirements.txt \
    && { grep '^torch' requirements.txt; echo torchvision; } > torch.txt
# No package lies here yet: this lays down only the distribution's name and version, which pictures carry.
COPY README.md LICENSE ./
RUN pip install --no-deps --target /app .
COPY models /app/models
COPY contracts /app/contracts
COPY worker /app/worker
COPY docker/worker_health.py /app/worker_health.py
# Compiled now, as nothing can be written later; readable whatever the umask was where the files were checked out.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app && chmod -R a+rX /app

FROM python:3.11-slim-bookworm
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN groupadd --gid 10001 unclip \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin unclip
# torch alone in the largest layer: another package that changes does not fetch it again.
COPY --from=floors /project/torch.txt /app/torch.txt
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r /app/torch.txt
COPY --from=floors /project/requirements.txt /app/requirements.txt
RUN pip install -r /app/requirements.txt
COPY --from=floors /app /app
WORKDIR /app
USER 10001:10001
# Checkpoints are folders: nothing is fetched from a hub.
ENV HOME=/tmp PYTHONPATH=/app HF_HUB_OFFLINE=1
STOPSIGNAL SIGTERM
# The time is ample: on a CPU the worker leaves little of the machine to others.
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s CMD ["python", "worker_health.py"]
CMD ["python", "-m", "worker"]
