// Between: frames from this image to another image or a prompt.
import { html, useState } from "../vendor/preact-htm.js";
import { randomSeed } from "../core/form.js";
import { Frames } from "../parts/frames.js";
import { Results } from "../parts/results.js";
import { useRun } from "../parts/use-run.js";
import { Well, emptyWell, isFilled } from "../parts/well.js";

export function BetweenPanel({ source, form }) {
  const [end, setEnd] = useState(emptyWell);
  const [frames, setFrames] = useState(8);
  const [key, start] = useRun();
  const submit = (event) => {
    event.preventDefault();
    const other = end.image ? { image_b: end.image.input } : { prompt_b: end.prompt.trim() };
    const body = { image_a: source.input, ...other, frames: Number(frames), animation: "webp", seed: randomSeed(), size: Number(form.size) };
    start("interpolate", body, { parents: [...source.parents, ...(end.image?.parents || [])] });
  };
  return html`<form class="stack" onSubmit=${submit}>
      <${Well} label="Other end" well=${end} onChange=${setEnd} />
      <div class="fields">
        <label>Frames <input type="number" min="2" max="32" value=${frames} onInput=${(event) => setFrames(event.target.value)} /></label>
        <button class="primary" type="submit" disabled=${!isFilled(end)}>Interpolate</button>
      </div>
    </form>
    <${Results} jobKey=${key}>${(running) => html`<${Frames} job=${running} />`}<//>`;
}
