# One image for the API and for every Ray node: drivers, trainer ranks and engines run where Ray puts them.
FROM python:3.12-slim

# libnuma and libgomp: SGLang and torch; gcc: Triton compiles its launchers when it first runs.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev libgomp1 libnuma1 \
 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv

WORKDIR /opt/rollway
COPY requirements.lock .
RUN uv pip install --system --no-cache --requirements requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY engines engines
COPY trainers trainers
COPY controlplane controlplane
COPY migrations migrations
RUN uv pip install --system --no-cache --no-deps .

ENV RAY_USAGE_STATS_ENABLED=0 \
    RAY_AUTH_MODE=token \
    RAY_AUTH_TOKEN_PATH=/var/lib/rollway/ray/token \
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 \
    ROLLWAY_HOME=/var/lib/rollway \
    ROLLWAY_RAY_TOKEN_PATH=/var/lib/rollway/ray/token
VOLUME /var/lib/rollway
EXPOSE 8000
CMD ["rollway", "--help"]
