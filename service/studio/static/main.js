// Mount the studio.
import { html, render } from "./vendor/preact-htm.js";
import { App } from "./components/app.js";

render(html`<${App} />`, document.getElementById("app"));
