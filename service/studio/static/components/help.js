// Keyboard shortcuts and API key.
import { html, useState } from "../vendor/preact-htm.js";
import { getApiKey, setApiKey } from "../core/api.js";
import { Dialog } from "../parts/dialog.js";

const KEYS = [
  ["/", "go to the prompt"],
  ["Enter", "generate, in the prompt"],
  ["Ctrl + Enter", "generate, anywhere"],
  ["Esc", "close, or stop all jobs"],
  ["← →", "previous and next image"],
  ["?", "this help"],
];

export const Help = ({ onClose }) => html`<${Dialog} title="Help" onClose=${onClose}>
  <p>Type what the image shows and press Enter. Open an image to vary, edit or mix it.
    Drop or paste an image anywhere: one of this service fills the form, another is an input.</p>
  <dl class="keys">${KEYS.map(([key, text]) => html`<dt><kbd>${key}</kbd></dt><dd>${text}</dd>`)}</dl>
  <p><a href="docs">API reference</a></p>
<//>`;

export function ApiKeyDialog({ onClose }) {
  const [key, setKey] = useState(getApiKey());
  const save = (event) => {
    event.preventDefault();
    setApiKey(key);
    onClose();
  };
  return html`<${Dialog} title="API key" onClose=${onClose}>
    <form onSubmit=${save} class="stack">
      <p>This service requires a key. It is kept until you close this tab.</p>
      <label>Key <input type="password" autocomplete="off" value=${key} onInput=${(event) => setKey(event.target.value)} /></label>
      <button class="primary" type="submit">Use this key</button>
    </form>
  <//>`;
}
