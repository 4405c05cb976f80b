// A well: one input that is either a prompt or an image (picked from the page, or uploaded).
import { html, useRef } from "../vendor/preact-htm.js";
import { toInput } from "../core/images.js";
import { hasEnded } from "../core/jobs.js";
import { useJobs } from "./hooks.js";

const MAX_CHOICES = 24;

export const emptyWell = () => ({ prompt: "", image: null });
export const isFilled = (well) => Boolean(well.image || well.prompt.trim());

/** The images on the page that can be picked: [{input, url, parents}]. */
function useImages() {
  return useJobs()
    .filter((job) => job.id && hasEnded(job))
    .flatMap((job) => job.images.map((image, index) => ({
      input: { job: job.id, index }, url: image.url, parents: [{ job: job.id, index }],
    })))
    .slice(0, MAX_CHOICES);
}

export function Well({ label, well, onChange }) {
  const file = useRef();
  const images = useImages();
  const upload = async (event) => {
    const chosen = event.target.files[0];
    if (!chosen) return;
    const url = await toInput(chosen);
    onChange({ ...well, image: { input: url, url, parents: [] } });
  };
  return html`<fieldset class="well">
    <legend>${label}</legend>
    ${well.image
      ? html`<div class="chosen"><img src=${well.image.url} alt=${`${label}: chosen image`} width="96" height="96" />
          <button type="button" onClick=${() => onChange({ ...well, image: null })}>Remove</button></div>`
      : html`<input type="text" maxlength="1000" placeholder="a prompt" aria-label=${`${label}: prompt`} value=${well.prompt}
            onInput=${(event) => onChange({ ...well, prompt: event.target.value })} />
          <details><summary>or an image</summary>
            <div class="choices">
              ${images.map((image, index) => html`<button type="button" key=${image.url} aria-label=${`Use image ${index + 1}`}
                onClick=${() => onChange({ ...well, image })}><img src=${image.url} alt="" width="56" height="56" loading="lazy" /></button>`)}
              <button type="button" onClick=${() => file.current.click()}>Upload</button>
              <input ref=${file} type="file" accept="image/*" class="visually-hidden" tabindex="-1" aria-label=${`${label}: upload`} onChange=${upload} />
            </div>
          </details>`}
  </fieldset>`;
}
