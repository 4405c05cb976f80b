// Compare two images with a slider.
import { html, useState } from "../vendor/preact-htm.js";
import { Well, emptyWell } from "../parts/well.js";

export function ComparePanel({ source }) {
  const [other, setOther] = useState(emptyWell);
  const [share, setShare] = useState(50);
  return html`
    <${Well} label="Other image" well=${other} onChange=${setOther} />
    ${other.image && html`<div class="compare">
      <img src=${source.url} alt="This image" width="384" height="384" />
      <img src=${other.image.url} alt="Other image" width="384" height="384" style=${{ clipPath: `inset(0 0 0 ${share}%)` }} />
    </div>
    <label class="fields">Left: this image. Right: the other.
      <input class="grow" type="range" min="0" max="100" value=${share} onInput=${(event) => setShare(event.target.value)} /></label>`}`;
}
