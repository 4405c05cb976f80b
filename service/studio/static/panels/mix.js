// Mix: a weighted sum of image embeddings, of images and prompts.
import { html, useState } from "../vendor/preact-htm.js";
import { randomSeed } from "../core/form.js";
import { Results } from "../parts/results.js";
import { useRun } from "../parts/use-run.js";
import { Well, emptyWell, isFilled } from "../parts/well.js";

const MAX_PARTS = 8;
const partOf = ({ well, weight }) => ({
  ...(well.image ? { image: well.image.input } : { prompt: well.prompt.trim() }), weight: Number(weight),
});

export function MixPanel({ source, form }) {
  const [parts, setParts] = useState([
    { id: 0, well: { prompt: "", image: source }, weight: 1 },
    { id: 1, well: emptyWell(), weight: 1 },
  ]);
  const [seed] = useState(randomSeed);
  const [key, start] = useRun();
  const change = (id, update) => setParts(parts.map((part) => (part.id === id ? { ...part, ...update } : part)));
  const used = parts.filter((part) => isFilled(part.well) && Number(part.weight) !== 0);
  const submit = (event) => {
    event?.preventDefault();
    if (!used.length) return;
    const body = { mix: used.map(partOf), n: 2, seed, size: Number(form.size) };
    start("generate", body, { parents: used.flatMap((part) => part.well.image?.parents || []) });
  };
  return html`<form class="stack" onSubmit=${submit}>
      ${parts.map(({ id, well, weight }, index) => html`<div class="part" key=${id}>
        <${Well} label=${`Part ${index + 1}`} well=${well} onChange=${(next) => change(id, { well: next })} />
        <label>Weight <input type="range" min="-1" max="2" step="0.1" value=${weight} onInput=${(event) => change(id, { weight: event.target.value })} />
          <output>${Number(weight).toFixed(1)}</output></label>
      </div>`)}
      <div class="fields">
        <button type="button" disabled=${parts.length >= MAX_PARTS}
          onClick=${() => setParts([...parts, { id: parts.length, well: emptyWell(), weight: 1 }])}>Add a part</button>
        <button class="primary" type="submit" disabled=${!used.length}>Mix</button>
      </div>
    </form>
    <${Results} jobKey=${key} />`;
}
