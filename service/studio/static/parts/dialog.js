// A modal dialog: the browser's own <dialog>, so focus stays inside and Esc closes it.
import { html, useEffect, useRef } from "../vendor/preact-htm.js";

export function Dialog({ title, onClose, wide = false, children }) {
  const dialog = useRef();
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  const close = (event) => {
    event.preventDefault();
    onClose();
  };
  const onClick = (event) => event.target === dialog.current && onClose();
  return html`<dialog ref=${dialog} class=${wide ? "wide" : ""} aria-label=${title} onCancel=${close} onClick=${onClick}>
    <header class="dialog-head">
      <h2>${title}</h2>
      <button type="button" class="icon" aria-label="Close" onClick=${onClose}>✕</button>
    </header>
    <div class="dialog-body">${children}</div>
  </dialog>`;
}
