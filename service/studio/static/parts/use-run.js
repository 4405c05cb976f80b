// Start jobs from a panel and remember the newest.
import { useState } from "../vendor/preact-htm.js";
import { getJobs, run } from "../core/jobs.js";

/** Return [key of the newest job, start(path, body, options)]. */
export function useRun() {
  const [key, setKey] = useState(null);
  const start = (path, body, options) => {
    const ended = run(path, body, options);
    setKey(getJobs()[0].key);
    return ended;
  };
  return [key, start];
}
