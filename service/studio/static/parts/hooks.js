// Hooks that components share.
import { useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { getJobs, subscribe } from "../core/jobs.js";

/** All jobs of the page; the component renders again when one changes. */
export function useJobs() {
  const [jobs, setJobs] = useState(getJobs());
  useEffect(() => subscribe(setJobs), []);
  return jobs;
}

/** The job with a key, as it changes; undefined when there is none. */
export const useJob = (key) => useJobs().find((job) => job.key === key);

/** Call `effect` when `values` have not changed for `milliseconds`. */
export function useDebounced(effect, values, milliseconds) {
  useEffect(() => {
    const timer = setTimeout(effect, milliseconds);
    return () => clearTimeout(timer);
  }, values);
}

/** A ref whose element receives the focus when it appears. */
export function useFocus() {
  const element = useRef();
  useEffect(() => element.current?.focus(), []);
  return element;
}
