// REST calls to the API of the same origin. In: relative paths. Out: typed documents, or an
// ApiError that carries the server's problem document (RFC 9457) in words fit to show.

import type { Problem, StreamPage, StreamSummary } from "./generated/api";

/** A call that did not succeed; `status` 0 means that no answer came. */
export class ApiError extends Error {
  readonly status: number;
  readonly problem: Problem | undefined;

  constructor(status: number, message: string, problem?: Problem) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.problem = problem;
  }
}

/** The newest streams, live ones among them, newest first. */
export async function fetchStreams(signal?: AbortSignal): Promise<StreamSummary[]> {
  const page = await getJson<StreamPage>("/streams?limit=200", signal);
  if (!Array.isArray(page.items)) throw new ApiError(200, "the server's answer has no list");
  return page.items;
}

/** One stream, also when it is over. */
export function fetchStream(streamId: string, signal?: AbortSignal): Promise<StreamSummary> {
  return getJson<StreamSummary>(`/streams/${encodeURIComponent(streamId)}`, signal);
}

async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, {
      headers: { accept: "application/json" },
      signal: signal ?? null,
    });
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new ApiError(0, "the server does not answer");
  }
  if (!response.ok) throw await problemOf(response);
  try {
    return (await response.json()) as T;
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new ApiError(response.status, "the server's answer is not JSON");
  }
}

/** The error that a refused response stands for. */
export async function problemOf(response: Response): Promise<ApiError> {
  const type = response.headers.get("content-type") ?? "";
  if (type.includes("json")) {
    try {
      const problem = (await response.json()) as Problem;
      const text = problem.detail ?? problem.title;
      if (typeof text === "string") return new ApiError(response.status, text, problem);
    } catch {
      // An answer that says it is JSON and is not: its status alone has to do.
    }
  }
  return new ApiError(response.status, `the server answered ${response.status}`);
}
