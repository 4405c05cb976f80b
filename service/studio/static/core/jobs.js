// Jobs of this page: submit, follow, cancel. A plain store that components subscribe to.
import { ApiError, cancelJob, follow, getJob, getJson, submit } from "./api.js";

const PARENTS = "unclip-parents";
const ENDED = new Set(["succeeded", "failed", "cancelled"]);
const listeners = new Set();
const controllers = new Map();
let jobs = [];
let sequence = 0;

export const getJobs = () => jobs;
export const hasEnded = (job) => ENDED.has(job.status);

/** Call `listener` on every change; returns the function that stops it. */
export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function publish() {
  for (const listener of listeners) listener(jobs);
}

function update(key, change) {
  jobs = jobs.map((job) => (job.key === key ? { ...job, ...change } : job));
  publish();
}

const readParents = () => JSON.parse(localStorage.getItem(PARENTS) || "{}");

/** Remember what a job was made from, for the family tree: [{job, index}]. */
function rememberParents(id, parents) {
  if (!parents.length) return;
  const known = Object.entries(readParents()).slice(-499);
  localStorage.setItem(PARENTS, JSON.stringify({ ...Object.fromEntries(known), [id]: parents }));
}

function fromServer(job) {
  return {
    key: job.id,
    id: job.id,
    operation: job.operation,
    status: job.status,
    parameters: job.parameters || {},
    images: job.images || [],
    animation: job.animation,
    result: job.result,
    warnings: job.warnings || [],
    error: job.error?.detail || "",
    progress: job.progress,
    position: job.queue_position,
    eta_s: job.eta_seconds,
    created_at: job.created_at,
    previews: {},
    parents: readParents()[job.id] || [],
  };
}

/** Fill the page with the newest jobs of the service that produced images, and follow those that have not ended. */
export async function loadJobs() {
  const page = await getJson("jobs?limit=40");
  const known = new Set(jobs.map((job) => job.id));
  const ids = page.jobs.filter((job) => !known.has(job.id) && !["failed", "cancelled"].includes(job.status));
  const loaded = await Promise.all(ids.map((job) => getJob(job.id).catch(() => null)));
  jobs = [...jobs, ...loaded.filter(Boolean).map(fromServer)];
  publish();
  for (const job of jobs) if (job.id && !hasEnded(job) && !controllers.has(job.key)) watch(job.key, job.id);
}

/**
 * Submit a request and follow it to its end. Returns the job as it ended.
 * `parents`: images [{job, index}] that it starts from; `hidden`: keep it out of the history.
 */
export async function run(path, body, { parents = [], hidden = false, label = "" } = {}) {
  const key = `local-${++sequence}`;
  const operation = path;
  const count = body.n || body.frames || 1;
  jobs = [
    {
      key, operation, label, hidden, parents, count,
      status: "submitting", parameters: body, images: [], previews: {}, warnings: [], error: "",
    },
    ...jobs,
  ];
  publish();
  try {
    const job = await submit(path, body);
    rememberParents(job.id, parents);
    update(key, { ...fromServer(job), key, hidden, label, parents, count });
    await watch(key, job.id);
  } catch (error) {
    update(key, { status: "failed", error: error.message });
    if (!(error instanceof ApiError)) throw error;
  }
  return jobs.find((job) => job.key === key);
}

async function watch(key, id) {
  const controller = new AbortController();
  controllers.set(key, controller);
  try {
    for await (const { event, data } of follow(id, { signal: controller.signal })) {
      if (event === "queued") update(key, { position: data.queue_position, eta_s: data.eta_seconds });
      else if (event === "progress") update(key, { status: "running", progress: data, position: null, eta_s: data.eta_seconds });
      else if (event === "preview") {
        const current = jobs.find((job) => job.key === key);
        update(key, { previews: { ...current.previews, [data.index]: data.image } });
      }
    }
    const { key: _, parents: __, ...ended } = fromServer(await getJob(id));
    update(key, { ...ended });
  } catch (error) {
    update(key, { status: "failed", error: error.message });
  } finally {
    controllers.delete(key);
  }
}

/** Cancel a job that has not ended. */
export async function stop(job) {
  if (!job.id || hasEnded(job)) return;
  try {
    await cancelJob(job.id);
  } catch (error) {
    update(job.key, { error: error.message });
  }
}

export function stopAll() {
  for (const job of jobs) if (!hasEnded(job)) stop(job);
}

/** Remove a job from the page; the service keeps it until it expires. */
export function dismiss(key) {
  controllers.get(key)?.abort();
  jobs = jobs.filter((job) => job.key !== key);
  publish();
}
