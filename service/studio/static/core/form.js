// The form: its fields, its address (#prompt=…&seed=…) and the request that it makes.

export const DEFAULTS = {
  prompt: "",
  negative_prompt: "",
  seed: "",
  n: 4,
  size: 256,
  prior: "",
  sampler: "",
  decoder_num_inference_steps: "",
  decoder_guidance_scale: "",
  prior_num_inference_steps: "",
  prior_guidance_scale: "",
  prior_num_candidates: "",
};
const TEXT = new Set(["prompt", "negative_prompt", "prior", "sampler"]);
/** Parameters that every request of the form carries besides prompt, seed and n. */
export const PARAMETERS = Object.keys(DEFAULTS).filter((name) => !["prompt", "seed", "n"].includes(name));
export const MAX_SEED = 4294967295;

/** Read the form from an address' fragment; unknown names and broken numbers are ignored. */
export function fromHash(hash) {
  const form = { ...DEFAULTS };
  for (const [name, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (!(name in DEFAULTS)) continue;
    if (TEXT.has(name)) form[name] = value;
    else if (value !== "" && Number.isFinite(Number(value))) form[name] = Number(value);
  }
  return form;
}

/** Write the form as a fragment; fields at their default are left out. */
export function toHash(form) {
  const fields = new URLSearchParams();
  for (const [name, value] of Object.entries(form)) {
    if (name in DEFAULTS && value !== DEFAULTS[name] && value !== "") fields.set(name, value);
  }
  const text = fields.toString();
  return text ? `#${text}` : "";
}

/** The fields of a request that were filled in; `only` restricts them to names that an operation takes. */
export function parametersOf(form, only = PARAMETERS) {
  const body = {};
  for (const name of only) {
    const value = form[name];
    if (value === "" || value === null || value === undefined) continue;
    body[name] = TEXT.has(name) ? value : Number(value);
  }
  return body;
}

/** Parameters that operations on an image take: those of the decoder, not of the prior. */
export const DECODER_PARAMETERS = ["size"];

export const randomSeed = () => Math.floor(Math.random() * (MAX_SEED - 100));

/** The body of POST /generate for this form. */
export function generateBody(form) {
  const seed = form.seed === "" ? randomSeed() : Number(form.seed);
  return { prompt: form.prompt.trim(), seed, n: Number(form.n), ...parametersOf(form) };
}

/** The form that makes an image again, from its provenance. */
export function fromProvenance(provenance) {
  const form = { ...DEFAULTS, n: 1, seed: provenance.seed };
  if (provenance.prompt) form.prompt = provenance.prompt;
  for (const name of PARAMETERS) {
    const value = provenance.parameters?.[name];
    if (value !== undefined && value !== null) form[name] = value;
  }
  return form;
}
