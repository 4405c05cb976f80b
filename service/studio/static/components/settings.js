// Parameters of the request: common ones in a row, the others folded away.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { getJson } from "../core/api.js";

const NUMBERS = [
  ["decoder_num_inference_steps", "Decoder steps", 1, 1000, 1],
  ["decoder_guidance_scale", "Decoder guidance", 0, 30, 0.5],
  ["prior_num_inference_steps", "Prior steps", 1, 1000, 1],
  ["prior_guidance_scale", "Prior guidance", 0, 30, 0.5],
  ["prior_num_candidates", "Prior candidates", 1, 16, 1],
];

/** The samplers that the service accepts, from its OpenAPI document. */
async function loadSamplers() {
  const { components } = await getJson("openapi.json");
  return components.schemas.GenerateRequest.properties.sampler.anyOf.flatMap((choice) => choice.enum || []);
}

export function Settings({ form, setForm }) {
  const [samplers, setSamplers] = useState(form.sampler ? [form.sampler] : []);
  // Without the document the checkpoint's default remains.
  useEffect(() => { loadSamplers().then(setSamplers).catch(() => {}); }, []);
  const number = (name) => (event) => setForm({ [name]: event.target.value === "" ? "" : Number(event.target.value) });
  const text = (name) => (event) => setForm({ [name]: event.target.value });
  return html`<div class="settings">
    <label>Images <input type="number" min="1" max="10" value=${form.n} onInput=${number("n")} /></label>
    <label>Size
      <select value=${form.size} onChange=${(event) => setForm({ size: Number(event.target.value) })}>
        ${[64, 256, 1024].map((size) => html`<option value=${size} selected=${size === Number(form.size)}>${size} × ${size}</option>`)}
      </select>
    </label>
    <label>Seed <input type="number" min="0" max="4294967295" placeholder="random" value=${form.seed} onInput=${number("seed")} /></label>
    <details>
      <summary>More settings</summary>
      <div class="settings">
        <label class="grow">Negative prompt <input type="text" maxlength="1000" value=${form.negative_prompt} onInput=${text("negative_prompt")} /></label>
        <label>Prior
          <select value=${form.prior} onChange=${text("prior")}>
            ${[["", "default"], ["diffusion", "diffusion"], ["autoregressive", "autoregressive"]].map(
              ([value, name]) => html`<option value=${value} selected=${value === form.prior}>${name}</option>`,
            )}
          </select>
        </label>
        <label>Sampler
          <select value=${form.sampler} onChange=${text("sampler")}>
            ${["", ...samplers].map((name) => html`<option value=${name} selected=${name === form.sampler}>${name || "default"}</option>`)}
          </select>
        </label>
        ${NUMBERS.map(
          ([name, label, min, max, step]) => html`<label key=${name}>${label}
            <input type="number" min=${min} max=${max} step=${step} placeholder="default" value=${form[name]} onInput=${number(name)} />
          </label>`,
        )}
      </div>
    </details>
  </div>`;
}
