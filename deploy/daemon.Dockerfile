# The daemon, `ttlc`: one image for every stage; the stage is the command.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock clippy.toml ./
COPY .cargo .cargo
COPY shared shared
COPY daemon daemon
COPY migrations migrations
COPY docs/contracts docs/contracts
# The other members of the workspace are not built here; cargo only wants their manifests.
COPY edge/Cargo.toml edge/Cargo.toml
COPY tests/Cargo.toml tests/Cargo.toml
COPY xtask/Cargo.toml xtask/Cargo.toml
RUN mkdir -p edge/src tests/upstream tests/bench tests/product xtask/src \
    && touch edge/src/lib.rs tests/upstream/lib.rs xtask/src/lib.rs \
    && for main in tests/upstream/main.rs tests/bench/main.rs tests/product/main.rs xtask/src/main.rs; do echo 'fn main() {}' > "$main"; done
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release --package daemon && cp target/release/ttlc /usr/local/bin/ttlc

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 ttlc && install -d -o ttlc -g ttlc /var/lib/ttlc
COPY --from=build /usr/local/bin/ttlc /usr/local/bin/ttlc
USER ttlc
ENV HEALTH_ADDR=127.0.0.1:9090
# A volume of ingest: what it has received outlives the container.
ENV SPOOL_DIR=/var/lib/ttlc/spool
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["ttlc", "healthcheck"]
ENTRYPOINT ["ttlc"]
CMD ["run"]
