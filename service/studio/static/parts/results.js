// The images of one job inside a panel: previews, then results.
import { html } from "../vendor/preact-htm.js";
import { hasEnded, stop } from "../core/jobs.js";
import { statusOf } from "../components/job-card.js";
import { useJob } from "./hooks.js";

/** A component's job: starts with `start(body)`, is shown by <Results>. */
export function Results({ jobKey, children }) {
  const job = useJob(jobKey);
  if (!job) return null;
  const ended = hasEnded(job);
  return html`<div class="results" aria-busy=${!ended}>
    ${!ended && html`<p role="status">${statusOf(job)} ${job.id && html`<button type="button" onClick=${() => stop(job)}>Stop</button>`}</p>`}
    ${job.error && html`<p class="error" role="alert">${job.error}</p>`}
    ${job.warnings.map((warning) => html`<p class="warning">${warning}</p>`)}
    ${children ? children(job) : html`<${Strip} job=${job} />`}
  </div>`;
}

export function Strip({ job }) {
  const count = job.images.length || (hasEnded(job) ? 0 : job.count || 1);
  return html`<div class="tiles">
    ${Array.from({ length: count }, (_, index) => {
      const url = job.images[index]?.url || job.previews[index];
      return html`<div class="tile" key=${index}>${url && html`<img src=${url} alt=${`Result ${index + 1}`} width="256" height="256" />`}</div>`;
    })}
  </div>`;
}
