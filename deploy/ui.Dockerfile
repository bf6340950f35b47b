# The page as static files behind nginx, which passes API paths on to the `api` service.
FROM node:22-bookworm-slim AS build
WORKDIR /src/ui
COPY ui/package.json ui/package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci
COPY docs/contracts /src/docs/contracts
COPY ui .
RUN npm run build

FROM nginx:1-alpine
COPY deploy/ui.nginx.conf /etc/nginx/conf.d/default.conf
COPY --from=build /src/ui/dist /usr/share/nginx/html
