// Words: change an image by the difference of two texts (a text diff), and scrub through the frames.
import { html, useState } from "../vendor/preact-htm.js";
import { randomSeed } from "../core/form.js";
import { Frames } from "../parts/frames.js";
import { Results } from "../parts/results.js";
import { useRun } from "../parts/use-run.js";

export function WordsPanel({ job, source, form }) {
  const [from, setFrom] = useState(job.parameters.prompt || "");
  const [to, setTo] = useState("");
  const [far, setFar] = useState(0.5);
  const [key, start] = useRun();
  const submit = (event) => {
    event.preventDefault();
    const body = {
      image: source.input, prompt_to: to.trim(), frames: 8, theta_max: Number(far), animation: "webp", seed: randomSeed(), size: Number(form.size),
      ...(from.trim() ? { prompt_from: from.trim() } : {}),
    };
    start("text-diff", body, { parents: source.parents });
  };
  return html`<form class="fields" onSubmit=${submit}>
      <label class="grow">It shows <input type="text" maxlength="1000" value=${from} onInput=${(event) => setFrom(event.target.value)} /></label>
      <label class="grow">It should show <input type="text" required maxlength="1000" value=${to} onInput=${(event) => setTo(event.target.value)} /></label>
      <label>How far <input type="range" min="0.1" max="1" step="0.05" value=${far} onInput=${(event) => setFar(event.target.value)} />
        <output>${Number(far).toFixed(2)}</output></label>
      <button class="primary" type="submit">Change</button>
    </form>
    <${Results} jobKey=${key}>${(running) => html`<${Frames} job=${running} />`}<//>`;
}
