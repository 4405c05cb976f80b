// Inspect: CLIP's view of an image, as probabilities of labels and as reconstructions from components.
import { html, useState } from "../vendor/preact-htm.js";
import { Results } from "../parts/results.js";
import { useRun } from "../parts/use-run.js";

const COMPONENTS = [1, 5, 10, 20];

export function InspectPanel({ source }) {
  const [labels, setLabels] = useState("a dog, a cat, a car");
  const [components, setComponents] = useState(true);
  const [key, start] = useRun();
  const submit = (event) => {
    event.preventDefault();
    const names = labels.split(/[,\n]/).map((name) => name.trim()).filter(Boolean);
    const body = { image: source.input, labels: names, components: components ? COMPONENTS : [], size: 64, seed: 1 };
    start("probe", body, { parents: source.parents, hidden: true });
  };
  return html`<form class="stack" onSubmit=${submit}>
      <label>Labels, with commas <input type="text" value=${labels} onInput=${(event) => setLabels(event.target.value)} /></label>
      <label class="switch"><input type="checkbox" checked=${components} onChange=${(event) => setComponents(event.target.checked)} />
        Rebuild the image from its first ${COMPONENTS.join(", ")} components</label>
      <button class="primary" type="submit">Inspect</button>
    </form>
    <${Results} jobKey=${key}>${(job) => html`
      ${job.result?.labels && html`<ul class="bars">${job.result.labels.map(({ label, probability }) => html`<li>
        <span>${label}</span><meter min="0" max="1" value=${probability} aria-label=${label}></meter><span>${(100 * probability).toFixed(0)} %</span></li>`)}</ul>`}
      <div class="tiles">${job.images.map((image, index) => html`<figure class="tile">
        <img src=${image.url} alt=${`Rebuilt from ${job.result?.components?.[index]?.components} components`} width="128" height="128" />
        <figcaption>${job.result?.components?.[index]?.components} components</figcaption></figure>`)}</div>`}
    <//>`;
}
