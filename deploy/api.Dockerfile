# The API under `wrangler dev`: the Worker as it runs on Cloudflare, on a server of one's own.
FROM rust:1.95-bookworm AS build
# Node for the Worker's JavaScript shim and the page.
COPY --from=node:22-bookworm-slim /usr/local/bin/node /usr/local/bin/node
COPY --from=node:22-bookworm-slim /usr/local/lib/node_modules /usr/local/lib/node_modules
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    --mount=type=cache,target=/root/.npm --mount=type=cache,target=/root/.cache \
    npm ci && cargo xtask edge --release && npm --prefix ui ci && npm --prefix ui run build

FROM node:22-bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /srv
COPY package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci
COPY wrangler.toml .
COPY deploy/api.sh /srv/serve
COPY deploy/api-healthcheck.sh /srv/healthcheck
COPY --from=build /src/edge/build edge/build
COPY --from=build /src/ui/dist ui/dist
ENV WRANGLER_SEND_METRICS=false WRANGLER_SEND_ERROR_REPORTS=false CLOUDFLARE_CF_FETCH_ENABLED=false CI=1
EXPOSE 3000
ENTRYPOINT ["/srv/serve"]
