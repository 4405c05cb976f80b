# The front end: contracts and service, without torch. Built from the repository's root:
#   docker build -f docker/service.Dockerfile -t unclip-service .
# Behind a mirror of the package index: --build-arg PIP_INDEX_URL=…

FROM python:3.11-slim-bookworm AS floors
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /project
# pyproject.toml's packages become a file of their own, so that they are installed anew only when they change.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*p['dependencies'], *p['optional-dependencies']['service'], *p['optional-dependencies']['store'], *p['optional-dependencies']['telemetry'], sep='\n')" > requirements.txt
# No package lies here yet: this lays down only the distribution's name and version.
COPY README.md LICENSE ./
RUN pip install --no-deps --target /app .
COPY contracts /app/contracts
COPY service /app/service
# Compiled now, as nothing can be written later; readable whatever the umask was where the files were checked out.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app && chmod -R a+rX /app

FROM python:3.11-slim-bookworm
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN groupadd --gid 10001 unclip \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin unclip
COPY --from=floors /project/requirements.txt /app/requirements.txt
RUN pip install -r /app/requirements.txt
COPY --from=floors /app /app
WORKDIR /app
USER 10001:10001
ENV HOME=/tmp PYTHONPATH=/app UNCLIP_HOST=0.0.0.0 UNCLIP_PORT=8000
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-c", "\
import os, urllib.request as u; \
u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['UNCLIP_PORT'] + '/healthz', timeout=4)"]
# What follows the image's name is a command of the service: docker compose run --rm service keys list
ENTRYPOINT ["python", "-m", "service"]
