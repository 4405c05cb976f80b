// One job: its images as tiles, its progress, its place in the queue, its warnings and errors.
import { html } from "../vendor/preact-htm.js";
import { dismiss, hasEnded, stop } from "../core/jobs.js";

const NAMES = {
  generate: "Generate", variations: "Variations", interpolate: "Between", "text-diff": "Words", edit: "Edit", edits: "Edit", probe: "Components",
};

export const titleOf = (job) => {
  const { prompt, prompt_a: a, prompt_b: b, prompt_from: from, prompt_to: to, mix } = job.parameters;
  if (job.label) return job.label;
  if (prompt) return prompt;
  if (to) return from ? `${from} → ${to}` : to;
  if (a || b) return `${a || "image"} → ${b || "image"}`;
  if (mix) return mix.map((part) => part.prompt || "image").join(" + ");
  return NAMES[job.operation] || job.operation;
};

/** A sentence on where the job is. */
export function statusOf(job) {
  if (job.status === "submitting") return "Sending the request …";
  if (job.status === "queued") {
    const place = job.position ? `${job.position} ${job.position === 1 ? "job" : "jobs"} before this one` : "Next in the queue";
    return job.eta_s ? `${place}, about ${Math.ceil(job.eta_s)} s left` : place;
  }
  if (job.status === "running") {
    const share = Math.round(100 * (job.progress?.fraction || 0));
    const left = job.progress?.eta_seconds;
    return left ? `${share} %, about ${Math.ceil(left)} s left` : `${share} %`;
  }
  return { succeeded: "Done", failed: "Failed", cancelled: "Stopped" }[job.status] || job.status;
}

function Tile({ job, index, image, preview, onOpen }) {
  const title = titleOf(job);
  if (image) {
    return html`<button
      type="button" class="tile" data-tile aria-label=${`Open image ${index + 1}: ${title}`} onClick=${() => onOpen(job.key, index)}
    ><img src=${image.url} alt=${`${title}, image ${index + 1}`} width="256" height="256" loading="lazy" draggable="true" /></button>`;
  }
  return html`<div class="tile pending">${preview && html`<img src=${preview} alt="Preview" width="256" height="256" />`}</div>`;
}

export function JobCard({ job, onOpen, onReuse }) {
  const ended = hasEnded(job);
  const count = job.images.length || (ended ? 0 : job.count || Math.max(1, Object.keys(job.previews).length));
  return html`<section class="job" aria-busy=${!ended} aria-label=${titleOf(job)}>
    <header>
      <h2>${titleOf(job)}</h2>
      <span class="kind">${NAMES[job.operation] || job.operation}</span>
      <span class="status" role="status">${ended && job.status === "succeeded" ? "" : statusOf(job)}</span>
      ${!ended && job.id && html`<button type="button" onClick=${() => stop(job)}>Stop</button>`}
      ${job.operation === "generate" && job.parameters.prompt && html`<button type="button" onClick=${() => onReuse(job)}>Use prompt</button>`}
      ${ended && html`<button type="button" class="icon" aria-label="Remove from this page" onClick=${() => dismiss(job.key)}>✕</button>`}
    </header>
    ${!ended && html`<progress max="1" value=${job.progress?.fraction || 0} aria-label="Progress"></progress>`}
    ${job.error && html`<p class="error" role="alert">${job.error}</p>`}
    ${job.warnings.map((warning) => html`<p class="warning">${warning}</p>`)}
    <div class=${`tiles ${count > 4 ? "many" : ""}`}>
      ${Array.from({ length: count }, (_, index) =>
        html`<${Tile} key=${index} job=${job} index=${index} image=${job.images[index]} preview=${job.previews[index]} onOpen=${onOpen} />`)}
    </div>
  </section>`;
}
