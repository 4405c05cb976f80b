# The service: contracts, infra and service, without torch. Build it from the repository's root:
#   docker build -f docker/service.Dockerfile -t unclip-service .
# Behind a mirror of the package index, add --build-arg PIP_INDEX_URL=…

FROM python:3.11-slim-bookworm AS build
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /project
# The requirements are a file, so that they are installed again only when they change.
COPY pyproject.toml ./
RUN python -c "import tomllib; \
    p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    extras = [p['optional-dependencies'][name] for name in ('service', 'store', 'telemetry')]; \
    print(*p['dependencies'], *sum(extras, []), sep='\n')" > requirements.txt
# There is no package here yet: this installs the distribution's name and version only.
COPY README.md LICENSE ./
RUN pip install --no-deps --target /app .
COPY contracts /app/contracts
COPY infra /app/infra
COPY service /app/service
# The file system is read-only later, so bytecode is compiled now. The files become readable for
# all users, whatever the umask of the checkout was.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app && chmod -R a+rX /app

FROM python:3.11-slim-bookworm
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN groupadd --gid 10001 unclip && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin unclip && \
    install --directory --owner=10001 --group=10001 /gallery
COPY --from=build /project/requirements.txt /app/requirements.txt
RUN pip install -r /app/requirements.txt
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
