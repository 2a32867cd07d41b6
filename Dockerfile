# syntax=docker/dockerfile:1

# One image for every service of docker-compose.yml, and for a single container with the whole platform:
#   docker run -p 127.0.0.1:8080:8080 -p 127.0.0.1:3000:3000 -e KAFKA_BROKERS=… -e DYNAMO_ENDPOINT=… -e MINIO_ENDPOINT=… IMAGE
# The Python version of the tests.
ARG PYTHON=3.11-slim-bookworm
# For Kubernetes: `docker build --build-arg EXTRAS=production,kubernetes`.
ARG EXTRAS=production,celery

FROM python:${PYTHON} AS build
ARG EXTRAS
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# Dependencies are a separate layer, because they change less often than the code. They are installed with an empty package.
# Its files must be deleted: setuptools would use an older build output instead of the newer file.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir analytics_defs && touch analytics_defs/__init__.py \
    && pip install --disable-pip-version-check --constraint constraints.txt ".[${EXTRAS}]" \
    && rm -rf analytics_defs build *.egg-info
COPY analytics_defs analytics_defs
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --disable-pip-version-check --no-deps --force-reinstall .

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/analytics analytics
COPY --from=build /opt/venv /opt/venv
COPY deploy /app/deploy
WORKDIR /app
# DAGSTER_HOME is that of the single container: SQLite, unless DAGSTER_POSTGRES_HOST is set. Services that share a Postgres set it
# to /app/deploy or /app/deploy/celery, the folders with the production dagster.yaml. They keep no local state.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/var/lib/analytics \
    DAGSTER_GRPC_HOST=127.0.0.1 \
    DAGSTER_GRPC_PORT=4000 \
    DAGSTER_WEBSERVER_HOST=0.0.0.0 \
    DAGSTER_WEBSERVER_PORT=3000 \
    DAGSTER_POSTGRES_PORT=5432 \
    DAGSTER_POSTGRES_USER=dagster \
    DAGSTER_POSTGRES_DB=dagster \
    HEALTH_HOST=0.0.0.0 \
    HEALTH_PORT=8080
USER 10001:10001
VOLUME /var/lib/analytics
# 3000: Dagster's webserver. 8080: health, metrics, traces and the status page.
EXPOSE 3000 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=30s --start-period=180s --start-interval=10s --retries=3 \
    CMD dagster-daemon liveness-check \
    && python -c "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"DAGSTER_WEBSERVER_PORT\"]}/server_info', timeout=5); urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"HEALTH_PORT\"]}/health/live', timeout=5)"
CMD ["python", "deploy/container.py"]
