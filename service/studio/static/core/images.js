// Images in the browser: read, shrink, convert, download.

export const MAX_SIDE_PX = 1024;
const TEXT_KEY = "unclip";

/** Load an image file or URL; throws an Error with a sentence when it is not an image. */
export async function loadBitmap(source) {
  const blob = source instanceof Blob ? source : await (await fetch(source)).blob();
  try {
    return await createImageBitmap(blob);
  } catch {
    throw new Error("This file is not an image that the browser can read. Use PNG, JPEG or WebP.");
  }
}

/** Return the centre square of an image file as a PNG data URL of at most 1024 × 1024 pixels. */
export async function toInput(file) {
  const bitmap = await loadBitmap(file);
  const side = Math.min(bitmap.width, bitmap.height);
  const target = Math.min(side, MAX_SIDE_PX);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = target;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const left = (bitmap.width - side) / 2;
  const top = (bitmap.height - side) / 2;
  context.drawImage(bitmap, left, top, side, side, 0, 0, target, target);
  return canvas.toDataURL("image/png");
}

/** Return the provenance that this service writes into its PNGs, or null. */
export async function readProvenance(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  if (bytes.length < 8 || view.getUint32(0) !== 0x89504e47) return null;
  for (let offset = 8; offset + 12 <= bytes.length; ) {
    const length = view.getUint32(offset);
    const type = String.fromCharCode(...bytes.subarray(offset + 4, offset + 8));
    const data = bytes.subarray(offset + 8, offset + 8 + length);
    const end = data.indexOf(0);
    if ((type === "tEXt" || type === "iTXt") && latin1(data.subarray(0, end)) === TEXT_KEY) {
      const text = type === "tEXt" ? latin1(data.subarray(end + 1)) : utf8(afterHeader(data, end));
      try {
        return JSON.parse(text);
      } catch {
        return null;
      }
    }
    if (type === "IEND") return null;
    offset += length + 12;
  }
  return null;
}

const latin1 = (bytes) => new TextDecoder("latin1").decode(bytes);
const utf8 = (bytes) => new TextDecoder().decode(bytes);

// An uncompressed iTXt chunk: keyword, 0, flag, method, language, 0, translated keyword, 0, text.
function afterHeader(data, end) {
  const language = data.indexOf(0, end + 3);
  const keyword = data.indexOf(0, language + 1);
  return data.subarray(keyword + 1);
}

/** Return an image URL's content in another format: png, webp or jpeg. */
export async function convert(url, format) {
  const response = await fetch(url);
  if (!response.ok) throw new Error("The image has expired. Generate it again.");
  const blob = await response.blob();
  if (format === "png") return blob;
  const bitmap = await loadBitmap(blob);
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, `image/${format}`, 0.92));
}

/** Offer a blob to the user as a file. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A short file name for a prompt. */
export const slug = (text) => (text || "image").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40).replace(/^-|-$/g, "") || "image";
