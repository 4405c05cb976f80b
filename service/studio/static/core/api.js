// The HTTP API of this service. Paths are relative, so the page works behind a path prefix.

const KEY = "unclip-api-key";

/** A response that is not a success; `message` is a sentence for the user. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const getApiKey = () => sessionStorage.getItem(KEY) || "";

/** Keep the key for this browser session; an empty key removes it. */
export function setApiKey(key) {
  if (key.trim()) sessionStorage.setItem(KEY, key.trim());
  else sessionStorage.removeItem(KEY);
}

function headers(extra = {}) {
  const key = getApiKey();
  return key ? { ...extra, Authorization: `Bearer ${key}` } : extra;
}

async function sentenceOf(response) {
  try {
    const problem = await response.json();
    const fields = (problem.errors || []).map((error) => `${error.field || error.loc}: ${error.message || error.msg}`);
    return [problem.detail || problem.title, ...fields].filter(Boolean).join(" ");
  } catch {
    return `The service answered ${response.status} ${response.statusText}.`;
  }
}

/** Call the service. Throws ApiError with a sentence for every failure, also when it cannot be reached. */
export async function call(method, path, { body, signal, accept = "application/json", extra = {} } = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      headers: headers({ Accept: accept, ...(body ? { "Content-Type": "application/json" } : {}), ...extra }),
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The service cannot be reached. Check that it is running, then try again.");
  }
  if (!response.ok) throw new ApiError(response.status, await sentenceOf(response));
  return response;
}

export const getJson = async (path, options) => (await call("GET", path, options)).json();

/** Submit a job. A repeat of the same call after a lost answer gives the same job. */
export async function submit(path, body, { signal } = {}) {
  const extra = { "Idempotency-Key": crypto.randomUUID ? crypto.randomUUID() : String(Math.random()) };
  const response = await call("POST", path, { body, signal, extra });
  return response.json();
}

export const getJob = (id) => getJson(`jobs/${id}`);
export const cancelJob = (id) => call("DELETE", `jobs/${id}`).then((response) => response.json());

/** Yield {event, data, id} of a job's server-sent events until it ends. Resumes after a broken connection. */
export async function* follow(id, { signal } = {}) {
  let last = null;
  for (let failures = 0; ; ) {
    try {
      const extra = last ? { "Last-Event-ID": last } : {};
      const response = await call("GET", `jobs/${id}/events`, { accept: "text/event-stream", signal, extra });
      for await (const message of parseEvents(response.body)) {
        failures = 0;
        if (message.id) last = message.id;
        yield message;
        if (message.event === "ended") return;
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status && error.status !== 503 && error.status < 500) throw error;
      failures += 1;
      if (failures > 30) throw error;
    }
    await sleep(Math.min(500 * 2 ** Math.min(failures, 4), 8000), signal);
    if (signal?.aborted) return;
  }
}

async function* parseEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value.replace(/\r\n?/g, "\n");
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop();
      for (const block of blocks) {
        const message = { event: "message", data: "", id: null };
        for (const line of block.split("\n")) {
          const [, name, value] = line.match(/^([a-z]+): ?(.*)$/) || [];
          if (name === "data") message.data += value;
          else if (name === "event" || name === "id") message[name] = value;
        }
        if (message.data) yield { ...message, data: JSON.parse(message.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

export const sleep = (milliseconds, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
