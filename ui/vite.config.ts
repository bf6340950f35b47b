// Build, development server and tests of the UI.
//
// The Worker serves `dist` from the origin of the API, so the client uses relative addresses;
// `npm run dev` proxies them to the Worker on API_PORT (default 3000).

import { defineConfig } from "vitest/config";

const api = `http://127.0.0.1:${process.env["API_PORT"] ?? "3000"}`;

export default defineConfig({
  esbuild: { jsx: "automatic" },
  server: {
    host: "127.0.0.1",
    port: 5173,
    proxy: { "/health": api, "/streams": api, "/sessions": api },
  },
  build: { sourcemap: true, assetsInlineLimit: 0 },
  test: {
    environment: "jsdom",
    include: ["src/**/*.test.{ts,tsx}"],
    restoreMocks: true,
  },
});
