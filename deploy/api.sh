#!/bin/sh
# Serves the Worker inside its container; the port is published on the host's loopback only.
set -eu
: "${DATABASE_URL:?set DATABASE_URL}" "${REDIS_URL:?set REDIS_URL}"
export CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_HYPERDRIVE="$DATABASE_URL"
# In a file, not on the command line, where every process could read it.
umask 077
printf 'REDIS_URL="%s"\nSTREAM_SHARDS="%s"\n' "$REDIS_URL" "${STREAM_SHARDS:-1}" > .dev.vars
exec node_modules/.bin/wrangler dev --ip 0.0.0.0 --port 3000 --persist-to /var/lib/api
