// Images that are kept: the gallery's routes.
import { call, getJson } from "./api.js";

/** Whether the operator has switched the gallery on. */
export const hasGallery = () => getJson("gallery/images?limit=1").then(() => true, () => false);
export const keep = async (job, index) => (await call("POST", "gallery/images", { body: { job, index } })).json();
export const forget = (id) => call("DELETE", `gallery/images/${id}`);
export const rate = async (id, stars) => (await call("PATCH", `gallery/images/${id}`, { body: { stars } })).json();
export const listCollections = () => getJson("gallery/collections");
export const createCollection = async (name) => (await call("POST", "gallery/collections", { body: { name } })).json();
export const collect = (collection, id) => call("PUT", `gallery/collections/${collection}/images/${id}`);

const parametersOf = (search) => {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(search)) if (value) parameters.set(name, value);
  return parameters;
};
export const list = (search) => getJson(`gallery/images?${parametersOf({ ...search, limit: 48 })}`);
export const download = (search) => call("GET", `gallery/archive.zip?${parametersOf(search)}`, { accept: "application/zip" }).then((response) => response.blob());
