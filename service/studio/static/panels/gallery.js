// The gallery: kept images, searched by words, day, operation, stars and collection.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { collect, createCollection, download, forget, list, listCollections, rate } from "../core/gallery.js";
import { download as save } from "../core/images.js";
import { Dialog } from "../parts/dialog.js";
import { useDebounced } from "../parts/hooks.js";

const EMPTY = { query: "", day: "", operation: "", min_stars: "", collection: "" };
const OPERATIONS = ["generate", "variations", "interpolate", "text-diff", "edit", "probe"];

function Kept({ image, collections, onChange, onError, onReuse }) {
  const act = (promise, change) => promise.then((result) => onChange(change ? change(result) : image)).catch((error) => onError(error.message));
  return html`<figure class="kept">
    <img src=${image.url} alt=${image.prompt || image.operation} width="256" height="256" loading="lazy" />
    <figcaption>${image.prompt || image.operation}
      <span class="fields">
        <label>Stars <select value=${image.stars || ""} onChange=${(event) => act(rate(image.id, event.target.value ? Number(event.target.value) : null), (rated) => rated)}>
          ${["", 1, 2, 3, 4, 5].map((stars) => html`<option value=${stars} selected=${stars === (image.stars || "")}>${stars || "–"}</option>`)}</select></label>
        ${collections.length > 0 && html`<label>Add to <select value="" onChange=${(event) => event.target.value && act(collect(event.target.value, image.id))}>
          <option value="">…</option>${collections.map(({ id, name }) => html`<option value=${id}>${name}</option>`)}</select></label>`}
        <button type="button" onClick=${() => onReuse(image)}>Use all</button>
        <button type="button" onClick=${() => act(forget(image.id), () => null)}>Delete</button>
      </span>
    </figcaption>
  </figure>`;
}

export function GalleryPanel({ onClose, onReuse }) {
  const [search, setSearch] = useState(EMPTY);
  const [page, setPage] = useState({ images: [], next: null });
  const [collections, setCollections] = useState([]);
  const [name, setName] = useState("");
  const [error, setError] = useState("");
  const fail = (problem) => setError(problem.message);
  const reload = () => list(search).then((found) => (setPage(found), setError(""))).catch(fail);
  const more = () => list({ ...search, cursor: page.next }).then((found) => setPage({ images: [...page.images, ...found.images], next: found.next })).catch(fail);
  useDebounced(reload, [search], 200);
  const loadCollections = () => listCollections().then(setCollections).catch(fail);
  useEffect(() => void loadCollections(), []);
  const set = (field) => (event) => setSearch({ ...search, [field]: event.target.value });
  const change = (old) => (image) => setPage({ ...page, images: page.images.map((one) => (one.id === old.id ? image : one)).filter(Boolean) });
  const add = (event) => {
    event.preventDefault();
    createCollection(name).then(() => (setName(""), loadCollections())).catch(fail);
  };
  return html`<${Dialog} title="Gallery" wide=${true} onClose=${onClose}>
    <div class="fields">
      <label class="grow">Words <input type="text" value=${search.query} onInput=${set("query")} /></label>
      <label>Kept on <input type="date" value=${search.day} onInput=${set("day")} /></label>
      <label>Operation <select onChange=${set("operation")}><option value="">all</option>${OPERATIONS.map((one) => html`<option value=${one}>${one}</option>`)}</select></label>
      <label>Stars <select onChange=${set("min_stars")}>${["", 1, 2, 3, 4, 5].map((one) => html`<option value=${one}>${one ? `${one} or more` : "any"}</option>`)}</select></label>
      <label>Collection <select onChange=${set("collection")}><option value="">all</option>${collections.map((one) => html`<option value=${one.id}>${one.name} (${one.images})</option>`)}</select></label>
      <button type="button" disabled=${!page.images.length} onClick=${() => download(search).then((blob) => save(blob, "gallery.zip")).catch(fail)}>Download all</button>
    </div>
    <form class="fields" onSubmit=${add}>
      <label>New collection <input type="text" required maxlength="100" value=${name} onInput=${(event) => setName(event.target.value)} /></label>
      <button type="submit">Create</button>
    </form>
    ${error && html`<p class="error" role="alert">${error}</p>`}
    ${!page.images.length && !error && html`<p class="empty">No kept image matches. Keep one with its Keep button.</p>`}
    <div class="tiles">${page.images.map((image) => html`<${Kept} key=${image.id} image=${image} collections=${collections} onChange=${change(image)} onError=${setError} onReuse=${onReuse} />`)}</div>
    ${page.next && html`<button type="button" onClick=${more}>More</button>`}
  <//>`;
}
