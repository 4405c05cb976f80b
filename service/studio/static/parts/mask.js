// A mask painted over an image: white where it is redrawn. Strokes are kept, so each can be undone.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";

const SIDE = 512;

function paint(context, { points, size, erase }) {
  context.globalCompositeOperation = erase ? "destination-out" : "source-over";
  context.strokeStyle = context.fillStyle = "#fff";
  context.lineWidth = size;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...points[0]);
  for (const point of points.slice(1)) context.lineTo(...point);
  context.stroke();
  context.beginPath();
  context.arc(...points[0], size / 2, 0, 2 * Math.PI);
  context.fill();
}

/** Return the painted mask as a PNG data URL of the image's own size, or null when nothing is painted. */
export async function renderMask(strokes, url) {
  if (!strokes.some((stroke) => !stroke.erase)) return null;
  const image = new Image();
  image.src = url;
  await image.decode();
  const layer = document.createElement("canvas");
  layer.width = layer.height = image.naturalWidth;
  const context = layer.getContext("2d");
  context.scale(image.naturalWidth / SIDE, image.naturalHeight / SIDE);
  for (const stroke of strokes) paint(context, stroke);
  const mask = document.createElement("canvas");
  mask.width = mask.height = image.naturalWidth;
  const output = mask.getContext("2d");
  output.fillStyle = "#000";
  output.fillRect(0, 0, mask.width, mask.height);
  output.drawImage(layer, 0, 0);
  return mask.toDataURL("image/png");
}

export function MaskCanvas({ url, strokes, setStrokes }) {
  const canvas = useRef();
  const [size, setSize] = useState(72);
  const [erase, setErase] = useState(false);
  const stroke = useRef(null);
  const draw = (all) => {
    const context = canvas.current.getContext("2d");
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, SIDE, SIDE);
    for (const one of all) paint(context, one);
  };
  useEffect(() => draw(strokes), [strokes]);
  const at = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  };
  const onPointerDown = (event) => {
    event.preventDefault();
    canvas.current.setPointerCapture(event.pointerId);
    stroke.current = { points: [at(event)], size: Number(size), erase };
    draw([...strokes, stroke.current]);
  };
  const onPointerMove = (event) => {
    if (!stroke.current) return;
    stroke.current.points.push(at(event));
    draw([...strokes, stroke.current]);
  };
  const onPointerUp = () => {
    if (!stroke.current) return;
    setStrokes([...strokes, stroke.current]);
    stroke.current = null;
  };
  // Without a pointer: cover the whole image, or one of nine cells.
  const cell = (row, column) => {
    const third = SIDE / 3;
    const middle = [(column + 0.5) * third, (row + 0.5) * third];
    setStrokes([...strokes, { points: [middle], size: third * 1.2, erase }]);
  };
  return html`<div class="mask">
    <div class="mask-image">
      <img src=${url} alt="" width="512" height="512" />
      <canvas
        ref=${canvas} width=${SIDE} height=${SIDE} role="img" aria-label="Mask: paint over the part to change"
        onPointerDown=${onPointerDown} onPointerMove=${onPointerMove} onPointerUp=${onPointerUp} onPointerCancel=${onPointerUp}
      ></canvas>
    </div>
    <div class="fields">
      <label>Brush <input type="range" min="8" max="220" value=${size} onInput=${(event) => setSize(event.target.value)} /></label>
      <label class="switch"><input type="checkbox" checked=${erase} onChange=${(event) => setErase(event.target.checked)} /> Erase</label>
      <button type="button" disabled=${!strokes.length} onClick=${() => setStrokes(strokes.slice(0, -1))}>Undo</button>
      <button type="button" disabled=${!strokes.length} onClick=${() => setStrokes([])}>Clear</button>
    </div>
    <details><summary>Paint by keyboard</summary>
      <div class="cells">${[0, 1, 2].map((row) => [0, 1, 2].map((column) => html`<button
        type="button" aria-label=${`Paint row ${row + 1}, column ${column + 1}`} onClick=${() => cell(row, column)}
      >${row + 1}·${column + 1}</button>`))}</div>
    </details>
  </div>`;
}
