# EmoStream in one image. The role is the command: `app`, `main-publisher`, `cluster-publisher`, `subscriber`, and also
# `create-topics` and `client`. docs/deploy.md says how to build and run it. The Kafka brokers are not in it.
ARG BASE=debian:13-slim

FROM ${BASE} AS runtime
# tini is process 1: it passes SIGTERM on from the first moment, where a process 1 of its own would ignore it until it
# has set its handlers. Spark needs a user that has a name. Kubernetes needs its number.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates default-jre-headless python3 tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 emostream \
 && useradd --uid 10001 --gid emostream --home-dir /data --no-create-home --shell /usr/sbin/nologin emostream
ENV PATH=/opt/emostream/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LC_ALL=C.UTF-8 DATA_DIR=/data BIND_HOST=0.0.0.0 BROKERS=0

FROM runtime AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv
WORKDIR /build
# What EmoStream requires changes less often than EmoStream, so it has a layer of its own.
COPY requirements.lock ./
RUN python3 -m venv /opt/emostream \
 && pip install --no-cache-dir --no-compile --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE requirements.txt ./
COPY config config
COPY emostream emostream
# Of what `setup` makes, only the connector for Spark stays. Java would ignore the archive of Spark's classes: it takes it
# only if a folder lists its jars in the same order, which another layer does not.
RUN pip install --no-cache-dir --no-deps . \
 && emostream setup \
 && python3 -m compileall -q /opt/emostream/lib \
 && find /data/jars -mindepth 1 -maxdepth 1 ! -name connector -exec rm -rf {} +

FROM runtime
LABEL org.opencontainers.image.title="EmoStream" \
      org.opencontainers.image.description="Live crowd reactions over Kafka and Spark" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/emostream /opt/emostream
COPY --from=build /data/jars /data/jars
# What a process writes; nothing else needs to be writable. With a read-only root, mount an empty folder at each of
# these two and at /tmp.
RUN install -d -o emostream -g emostream /data/run /data/spark
WORKDIR /data
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["emostream", "health"]
ENTRYPOINT ["tini", "--", "emostream"]
CMD ["--help"]
