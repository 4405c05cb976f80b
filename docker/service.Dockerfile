# The service: contracts, infra and service, without torch. Build it from the repository's root:
#   docker build -f docker/service.Dockerfile -t unclip-service .
# Behind a mirror of the package index, add --build-arg PIP_INDEX_URL=…

# An operator pins the base image by its digest: docs/operations/supply-chain.md.
ARG BASE_IMAGE

FROM ${BASE_IMAGE:-python:3.11-slim-bookworm} AS build
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /project
COPY requirements/build.txt ./
RUN pip install --require-hashes --only-binary :all: -r build.txt
# There is no package here yet: this installs the distribution's name and version only.
COPY pyproject.toml README.md LICENSE ./
RUN pip install --no-deps --no-build-isolation --target /app .
COPY contracts /app/contracts
COPY infra /app/infra
COPY service /app/service
# The file system is read-only later, so bytecode is compiled now. The files become readable for
# all users, whatever the umask of the checkout was.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app && chmod -R a+rX /app

FROM ${BASE_IMAGE:-python:3.11-slim-bookworm}
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN groupadd --gid 10001 unclip && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin unclip && \
    install --directory --owner=10001 --group=10001 /gallery
# The requirements are a file, so that they are installed again only when they change.
COPY requirements/service.txt /app/requirements/
RUN pip install --require-hashes --only-binary :all: -r /app/requirements/service.txt && pip check
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
ENV HOME=/tmp PYTHONPATH=/app UNCLIP_HOST=0.0.0.0 UNCLIP_PORT=8000
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-c", "\
import os, urllib.request as u; \
u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['UNCLIP_PORT'] + '/healthz', timeout=4)"]
# Arguments are the service's: docker compose run --rm service keys list
ENTRYPOINT ["python", "-m", "service"]
