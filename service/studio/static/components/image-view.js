// One image, large, with everything that can be done to it.
import { html, useState } from "../vendor/preact-htm.js";
import { keep } from "../core/gallery.js";
import { download, convert, slug } from "../core/images.js";
import { Dialog } from "../parts/dialog.js";
import { titleOf } from "./job-card.js";
import { useJob } from "../parts/hooks.js";
import { VariationsPanel } from "../panels/variations.js";
import { EditPanel } from "../panels/edit.js";
import { WordsPanel } from "../panels/words.js";
import { BetweenPanel } from "../panels/between.js";
import { MixPanel } from "../panels/mix.js";
import { InspectPanel } from "../panels/inspect.js";
import { DetailsPanel } from "../panels/details.js";
import { ComparePanel } from "../panels/compare.js";

const PANELS = [
  ["variations", "Variations", VariationsPanel],
  ["edit", "Edit", EditPanel],
  ["words", "Words", WordsPanel],
  ["between", "Between", BetweenPanel],
  ["mix", "Mix", MixPanel],
  ["inspect", "Inspect", InspectPanel],
  ["compare", "Compare", ComparePanel],
  ["details", "Details", DetailsPanel],
];

/** A source image of an operation: one of a job's images, or an upload. */
export const sourceOf = (job, index) =>
  job.upload ? { input: job.upload, url: job.upload, parents: [] }
    : { input: { job: job.id, index }, url: job.images[index].url, parents: [{ job: job.id, index }] };

export function ImageView({ jobKey, index, upload, form, canKeep, onClose, onReuse, onMove }) {
  const [panel, setPanel] = useState("variations");
  const [notice, setNotice] = useState("");
  const found = useJob(jobKey);
  const job = upload ? { upload, key: "upload", images: [{ url: upload }], parameters: {}, operation: "upload", label: "Uploaded image" } : found;
  const image = job?.images[index];
  if (!image) return null;
  const title = titleOf(job);
  const source = sourceOf(job, index);
  const Panel = PANELS.find(([name]) => name === panel)[2];
  const save = async (format) => {
    try {
      const name = format === "jpeg" ? "jpg" : format;
      download(await convert(image.url, format), `${slug(title)}-${index}.${name}`);
    } catch (error) {
      setNotice(error.message);
    }
  };
  const onKeep = () => keep(job.id, index).then(() => setNotice("Kept in the gallery."), (error) => setNotice(error.message));
  const share = async () => {
    await navigator.clipboard.writeText(new URL(image.url, location.href).href);
    setNotice("The image's address is copied. It works until the job expires.");
  };
  const onKeyDown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && !/INPUT|TEXTAREA|SELECT/.test(event.target.tagName) && event.target.getAttribute("role") !== "tab") {
      event.preventDefault();
      onMove(step);
    }
  };
  const onTabKey = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const names = PANELS.map(([name]) => name);
    const next = names[(names.indexOf(panel) + step + names.length) % names.length];
    setPanel(next);
    document.getElementById(`tab-${next}`).focus();
  };
  return html`<${Dialog} title=${title} wide=${true} onClose=${onClose}>
    <div class="view" onKeyDown=${onKeyDown}>
      <figure>
        <img src=${image.url} alt=${title} width="512" height="512" />
        <figcaption>
          ${image.seed !== undefined && html`<span>seed ${image.seed} · ${image.width} × ${image.height}</span>`}
          <span class="buttons">
            ${["png", "webp", "jpeg"].map((format) => html`<button type="button" onClick=${() => save(format)}>${format.toUpperCase()}</button>`)}
            ${!upload && canKeep && html`<button type="button" onClick=${onKeep}>Keep</button>`}
            ${!upload && html`<button type="button" onClick=${share}>Share</button>`}
            ${!upload && html`<button type="button" onClick=${() => onReuse(job, index)}>Use all</button>`}
          </span>
          ${notice && html`<span role="status">${notice}</span>`}
        </figcaption>
      </figure>
      <div class="panel">
        <div role="tablist" aria-label="What to do with the image" onKeyDown=${onTabKey}>
          ${PANELS.map(([name, label]) => html`<button
            type="button" role="tab" id=${`tab-${name}`} aria-selected=${name === panel} aria-controls="panel"
            tabindex=${name === panel ? 0 : -1} onClick=${() => setPanel(name)}
          >${label}</button>`)}
        </div>
        <div role="tabpanel" id="panel" aria-labelledby=${`tab-${panel}`}>
          <${Panel} key=${`${job.key}-${index}-${panel}`} job=${job} index=${index} source=${source} form=${form} onClose=${onClose} />
        </div>
      </div>
    </div>
  <//>`;
}
