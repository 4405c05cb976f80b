// Edit: redraw the painted part by a prompt; every pixel outside it stays.
import { html, useState } from "../vendor/preact-htm.js";
import { randomSeed } from "../core/form.js";
import { MaskCanvas, renderMask } from "../parts/mask.js";
import { Results } from "../parts/results.js";
import { useRun } from "../parts/use-run.js";

export function EditPanel({ job, source, form }) {
  const [prompt, setPrompt] = useState(job.parameters.prompt || form.prompt);
  const [strokes, setStrokes] = useState([]);
  const [error, setError] = useState("");
  const [key, start] = useRun();
  const submit = async (event) => {
    event.preventDefault();
    const mask = await renderMask(strokes, source.url);
    if (!mask) return setError("Paint over the part to change first.");
    setError("");
    const side = job.images[0].width;
    const size = [64, 256, 1024].includes(side) ? side : Number(form.size);
    const body = { image: source.input, mask, prompt: prompt.trim(), n: 2, seed: randomSeed(), size };
    start("edits", body, { parents: source.parents });
  };
  return html`<form class="stack" onSubmit=${submit}>
      <${MaskCanvas} url=${source.url} strokes=${strokes} setStrokes=${setStrokes} />
      <label>The whole image, when done
        <input type="text" required maxlength="1000" value=${prompt} onInput=${(event) => setPrompt(event.target.value)} /></label>
      ${error && html`<p class="error" role="alert">${error}</p>`}
      <button class="primary" type="submit">Edit</button>
    </form>
    <${Results} jobKey=${key} />`;
}
