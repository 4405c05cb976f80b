// Details: how the image was generated, the call that does it, and the family tree.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { getJson } from "../core/api.js";
import { callsOf } from "../core/calls.js";
import { useJobs } from "../parts/hooks.js";

function Call({ name, text }) {
  const [copied, setCopied] = useState(false);
  const copy = () => navigator.clipboard.writeText(text).then(() => setCopied(true));
  return html`<div class="call"><h3>${name}</h3><button type="button" onClick=${copy}>${copied ? "Copied" : "Copy"}</button><pre tabindex="0">${text}</pre></div>`;
}

function Family({ job }) {
  const jobs = useJobs();
  const find = ({ job: id, index }) => jobs.find((one) => one.id === id)?.images[index]?.url;
  const children = jobs.filter((one) => one.parents.some((parent) => parent.job === job.id) && one.images.length);
  if (!job.parents?.length && !children.length) return null;
  return html`<h3>Family</h3>
    ${job.parents?.length > 0 && html`<p>Made from</p><div class="choices">${job.parents.map((parent) => find(parent)
      ? html`<img src=${find(parent)} alt="Parent image" width="72" height="72" />` : html`<span>an image that has expired</span>`)}</div>`}
    ${children.length > 0 && html`<p>Led to</p><div class="choices">${children.flatMap((child) => child.images.slice(0, 4))
      .map((image) => html`<img src=${image.url} alt="Descendant image" width="72" height="72" />`)}</div>`}`;
}

export function DetailsPanel({ job, index }) {
  const [provenance, setProvenance] = useState(null);
  const [error, setError] = useState("");
  useEffect(() => {
    if (!job.id) return;
    getJson(`jobs/${job.id}/images/${index}.json`).then(setProvenance).catch((problem) => setError(problem.message));
  }, [job.id, index]);
  if (!job.id) return html`<p>This image was uploaded. It leaves your browser only when you use it.</p>`;
  const origin = new URL(".", location.href).href.replace(/\/$/, "");
  const { parameters, prompt, checkpoint, checkpoint_digest: digest, device, dtype, version } = provenance || {};
  const request = Object.fromEntries(Object.entries(job.parameters).filter(([, value]) => value !== null && value !== ""));
  return html`
    ${error && html`<p class="error" role="alert">${error}</p>`}
    ${provenance && html`<dl class="facts">
      ${prompt && html`<dt>Prompt</dt><dd>${prompt}</dd>`}
      <dt>Seed</dt><dd>${provenance.seed}</dd>
      <dt>Checkpoint</dt><dd>${checkpoint} (${(digest || "").slice(0, 12)})</dd>
      <dt>Computed</dt><dd>${dtype} on ${device}, version ${version}</dd>
      ${Object.entries(parameters || {}).map(([name, value]) => html`<dt>${name}</dt><dd>${String(value)}</dd>`)}
    </dl>`}
    <${Family} job=${job} />
    <h3>The call</h3>
    ${callsOf(job.operation, request, origin).map((call) => html`<${Call} key=${call.name} ...${call} />`)}`;
}
