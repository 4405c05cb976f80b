// Frames as a scrubber: a slider over the images of a job, play, and the animation to download.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { download } from "../core/images.js";

const FRAME_MS = 120;

export function Frames({ job }) {
  const [frame, setFrame] = useState(0);
  const [playing, setPlaying] = useState(false);
  const count = job.images.length;
  useEffect(() => {
    if (!playing || count < 2) return undefined;
    let step = 1;
    const timer = setInterval(() => setFrame((now) => {
      if (now + step < 0 || now + step >= count) step = -step;
      return now + step;
    }), FRAME_MS);
    return () => clearInterval(timer);
  }, [playing, count]);
  if (!count) {
    const previews = Object.values(job.previews);
    return previews.length ? html`<div class="tiles many">${previews.map((url) => html`<div class="tile"><img src=${url} alt="Preview" /></div>`)}</div>` : null;
  }
  const saveAnimation = async () => download(await (await fetch(job.animation.url)).blob(), `frames.${job.animation.format}`);
  return html`<div class="frames">
    <img src=${job.images[Math.min(frame, count - 1)].url} alt=${`Frame ${frame + 1} of ${count}`} width="384" height="384" />
    <div class="fields">
      <label class="grow">Frame <input type="range" min="0" max=${count - 1} value=${frame} onInput=${(event) => setFrame(Number(event.target.value))} />
        <output>${frame + 1} / ${count}</output></label>
      <button type="button" aria-pressed=${playing} onClick=${() => setPlaying(!playing)}>${playing ? "Pause" : "Play"}</button>
      ${job.animation && html`<button type="button" onClick=${saveAnimation}>Save ${job.animation.format.toUpperCase()}</button>`}
    </div>
  </div>`;
}
