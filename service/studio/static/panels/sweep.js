// Sweep: one or two parameters over lists of values, as a grid with captions.
import { html, useState } from "../vendor/preact-htm.js";
import { Dialog } from "../parts/dialog.js";
import { useJobs } from "../parts/hooks.js";
import { generateBody, randomSeed } from "../core/form.js";
import { download, loadBitmap } from "../core/images.js";
import { getJobs, run, stop } from "../core/jobs.js";

const MAX_CELLS = 64;
const NAMES = [
  ["seed", "1, 2, 3, 4"],
  ["decoder_guidance_scale", "1, 2, 4, 8"],
  ["decoder_num_inference_steps", "2, 4, 8, 16"],
  ["prior_guidance_scale", "1, 2, 4"],
  ["prior_num_candidates", "1, 2, 4"],
  ["sampler", "ddpm, ddim, dpm++, unipc, heun"],
  ["prior", "diffusion, autoregressive"],
];
const valuesOf = (text) => text.split(",").map((value) => value.trim()).filter(Boolean)
  .map((value) => (Number.isFinite(Number(value)) ? Number(value) : value));

async function contactSheet(cells, columns, side = 256, line = 22) {
  const rows = Math.ceil(cells.length / columns);
  const canvas = document.createElement("canvas");
  canvas.width = columns * side;
  canvas.height = rows * (side + line);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#000";
  context.font = "14px system-ui, sans-serif";
  for (const [index, { url, label }] of cells.entries()) {
    const x = (index % columns) * side;
    const y = Math.floor(index / columns) * (side + line);
    if (url) context.drawImage(await loadBitmap(url), x, y, side, side);
    context.fillText(label, x + 4, y + side + 15, side - 8);
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

export function SweepPanel({ form, onClose }) {
  const [axes, setAxes] = useState([{ name: "seed", values: "1, 2, 3, 4" }, { name: "", values: "" }]);
  const [cells, setCells] = useState([]);
  const jobs = useJobs();
  const change = (at, update) => setAxes(axes.map((axis, index) => (index === at ? { ...axis, ...update } : axis)));
  const [columns, rows] = axes.map((axis) => (axis.name ? valuesOf(axis.values) : []));
  const count = Math.max(columns.length, 1) * Math.max(rows.length, 1);
  const start = (event) => {
    event.preventDefault();
    const seed = form.seed === "" ? randomSeed() : Number(form.seed);
    const next = [];
    for (const row of rows.length ? rows : [null]) {
      for (const column of columns) {
        const change = { [axes[0].name]: column, ...(row === null ? {} : { [axes[1].name]: row }) };
        const label = Object.entries(change).map(([name, value]) => `${name} ${value}`).join(", ");
        run("generate", generateBody({ ...form, seed, n: 1, ...change }), { hidden: true, label });
        next.push({ key: getJobs()[0].key, label });
      }
    }
    setCells(next);
  };
  const filled = cells.map((cell) => {
    const job = jobs.find((one) => one.key === cell.key);
    return { ...cell, job, url: job?.images[0]?.url, preview: job?.previews[0], error: job?.error };
  });
  const save = async () => download(await contactSheet(filled, columns.length), "sweep.png");
  return html`<${Dialog} title="Sweep" wide=${true} onClose=${onClose}>
    <form class="stack" onSubmit=${start}>
      ${axes.map((axis, at) => html`<div class="fields" key=${at}>
        <label>${at === 0 ? "Columns" : "Rows"}
          <select value=${axis.name} onChange=${(event) => change(at, { name: event.target.value, values: NAMES.find(([name]) => name === event.target.value)?.[1] || "" })}>
            ${at === 1 && html`<option value="">none</option>`}
            ${NAMES.map(([name]) => html`<option value=${name} selected=${name === axis.name}>${name}</option>`)}
          </select></label>
        <label class="grow">Values <input type="text" value=${axis.values} disabled=${!axis.name} onInput=${(event) => change(at, { values: event.target.value })} /></label>
      </div>`)}
      ${count > MAX_CELLS && html`<p class="error" role="alert">${count} cells are too many: at most ${MAX_CELLS}.</p>`}
      <div class="fields">
        <button class="primary" type="submit" disabled=${!columns.length || count > MAX_CELLS}>Generate ${count} images</button>
        ${filled.some((cell) => cell.url) && html`<button type="button" onClick=${save}>Save the grid</button>`}
        ${filled.length > 0 && html`<button type="button" onClick=${() => filled.forEach((cell) => cell.job && stop(cell.job))}>Stop</button>`}
      </div>
    </form>
    <div class="grid" style=${{ gridTemplateColumns: `repeat(${Math.max(columns.length, 1)}, minmax(64px, 1fr))` }}>
      ${filled.map((cell) => html`<figure key=${cell.key}>
        ${cell.url || cell.preview ? html`<img src=${cell.url || cell.preview} alt=${cell.label} />` : html`<div class="tile pending"></div>`}
        <figcaption>${cell.error || cell.label}</figcaption></figure>`)}
    </div>
  <//>`;
}
