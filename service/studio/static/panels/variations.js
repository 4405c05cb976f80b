// Variations: images with the same content; "how far" is eta, the noise of the sampler.
import { html, useState } from "../vendor/preact-htm.js";
import { randomSeed } from "../core/form.js";
import { Results } from "../parts/results.js";
import { useRun } from "../parts/use-run.js";

export function VariationsPanel({ source, form }) {
  const [eta, setEta] = useState(0.7);
  const [count, setCount] = useState(4);
  const [key, start] = useRun();
  const submit = (event) => {
    event.preventDefault();
    const body = { image: source.input, n: Number(count), eta: Number(eta), seed: randomSeed(), size: Number(form.size) };
    start("variations", body, { parents: source.parents, label: "Variations" });
  };
  return html`<form class="fields" onSubmit=${submit}>
      <label>How far <input type="range" min="0" max="1" step="0.05" value=${eta} onInput=${(event) => setEta(event.target.value)} />
        <output>${Number(eta).toFixed(2)}</output></label>
      <label>Images <input type="number" min="1" max="10" value=${count} onInput=${(event) => setCount(event.target.value)} /></label>
      <button class="primary" type="submit">Make variations</button>
    </form>
    <${Results} jobKey=${key} />`;
}
