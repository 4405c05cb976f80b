// Choose: 16 candidates at 64 px; only those that are picked are generated at full size.
import { html, useState } from "../vendor/preact-htm.js";
import { Dialog } from "../parts/dialog.js";
import { useJobs } from "../parts/hooks.js";
import { generateBody, randomSeed } from "../core/form.js";
import { getJobs, run } from "../core/jobs.js";

const HALF = 8;

export function ChoosePanel({ form, onClose }) {
  const [keys, setKeys] = useState([]);
  const [picked, setPicked] = useState(new Set());
  const jobs = useJobs();
  const start = () => {
    const seed = form.seed === "" ? randomSeed() : Number(form.seed);
    setPicked(new Set());
    setKeys([0, HALF].map((offset) => {
      run("generate", { ...generateBody({ ...form, seed: seed + offset, n: HALF }), size: 64 }, { hidden: true });
      return getJobs()[0].key;
    }));
  };
  const candidates = keys.flatMap((key) => {
    const job = jobs.find((one) => one.key === key);
    return Array.from({ length: HALF }, (_, index) => ({
      seed: job?.images[index]?.seed, url: job?.images[index]?.url || job?.previews[index], ready: Boolean(job?.images[index]),
    }));
  });
  const errors = keys.map((key) => jobs.find((one) => one.key === key)?.error).filter(Boolean);
  const toggle = (seed) => {
    const next = new Set(picked);
    if (!next.delete(seed)) next.add(seed);
    setPicked(next);
  };
  const finish = () => {
    const size = Number(form.size) === 64 ? 256 : Number(form.size);
    for (const seed of picked) run("generate", { ...generateBody({ ...form, seed, n: 1 }), size });
    onClose();
  };
  return html`<${Dialog} title="Choose of 16" wide=${true} onClose=${onClose}>
    <div class="fields">
      <button class="primary" type="button" onClick=${start}>${keys.length ? "16 others" : "Generate 16 candidates"}</button>
      <button type="button" disabled=${!picked.size} onClick=${finish}>Generate ${picked.size} at full size</button>
    </div>
    ${errors.map((error) => html`<p class="error" role="alert">${error}</p>`)}
    <div class="tiles many">
      ${candidates.map(({ seed, url, ready }, index) => html`<button
        type="button" class="tile" key=${index} disabled=${!ready} aria-pressed=${picked.has(seed)} aria-label=${`Candidate ${index + 1}`}
        onClick=${() => toggle(seed)}
      >${url && html`<img src=${url} alt="" width="128" height="128" />`}</button>`)}
    </div>
  <//>`;
}
