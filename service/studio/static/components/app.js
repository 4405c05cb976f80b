// The page: form, jobs, dialogs, keyboard, drop and paste.
import { html, useCallback, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { ApiError, cancelJob, follow, getJob, getJson, submit } from "../core/api.js";
import { fromHash, fromProvenance, generateBody, randomSeed, toHash } from "../core/form.js";
import { hasGallery } from "../core/gallery.js";
import { readProvenance, toInput } from "../core/images.js";
import { hasEnded, loadJobs, run, stopAll } from "../core/jobs.js";
import { ApiKeyDialog, Help } from "./help.js";
import { ImageView } from "./image-view.js";
import { JobCard } from "./job-card.js";
import { PromptBox } from "./prompt-box.js";
import { Settings } from "./settings.js";
import { useDebounced, useJobs } from "../parts/hooks.js";
import { SweepPanel } from "../panels/sweep.js";
import { GalleryPanel } from "../panels/gallery.js";
import { ChoosePanel } from "../panels/choose.js";

const SKETCH_AFTER_MS = 250;

export function App() {
  const [form, setWholeForm] = useState(() => fromHash(location.hash));
  const [vocabulary, setVocabulary] = useState(null);
  const [view, setView] = useState(null); // {jobKey, index} or {upload}
  const [dialog, setDialog] = useState("");
  const [notice, setNotice] = useState("");
  const [canKeep, setCanKeep] = useState(false);
  const [live, setLive] = useState(false);
  const [sketch, setSketch] = useState("");
  const [sketchSeed, setSketchSeed] = useState(randomSeed);
  const jobs = useJobs();
  const input = useRef();
  const setForm = useCallback((change) => setWholeForm((form) => ({ ...form, ...change })), []);
  const shown = jobs.filter((job) => !job.hidden);
  const busy = shown.some((job) => !hasEnded(job));

  const explain = useCallback((error) => {
    if (error instanceof ApiError && error.status === 401) setDialog("key");
    else setNotice(error.message);
  }, []);
  const load = useCallback(() => {
    loadJobs().catch(explain);
    hasGallery().then(setCanKeep);
    getJson("vocabulary").then(setVocabulary).catch(() => setVocabulary(null));
  }, []);
  useEffect(load, []);
  useEffect(() => {
    const onHash = () => setWholeForm(fromHash(location.hash));
    addEventListener("hashchange", onHash);
    return () => removeEventListener("hashchange", onHash);
  }, []);
  useDebounced(() => history.replaceState(null, "", location.pathname + location.search + toHash(form)), [form], 300);

  const generate = useCallback(() => {
    if (!form.prompt.trim()) return;
    setNotice("");
    const seed = form.seed === "" && live ? sketchSeed : form.seed;
    run("generate", generateBody({ ...form, seed }));
    if (form.seed === "" && live) setSketchSeed(randomSeed());
  }, [form, live, sketchSeed]);
  const surprise = vocabulary?.examples?.length
    ? () => {
        const prompt = vocabulary.examples[Math.floor(Math.random() * vocabulary.examples.length)];
        setForm({ prompt });
        run("generate", generateBody({ ...form, prompt }));
      }
    : null;
  const upload = useCallback(async (file) => {
    try {
      const provenance = await readProvenance(file);
      if (provenance?.prompt) {
        setWholeForm(fromProvenance(provenance));
        setNotice("The form holds what made this image. Generate it again, or change it.");
      } else setView({ upload: await toInput(file), index: 0 });
    } catch (error) {
      setNotice(error.message);
    }
  }, []);
  const reuse = async (job, index) => {
    if (index === undefined) setForm({ prompt: job.parameters.prompt });
    else {
      try {
        setWholeForm(fromProvenance(await getJson(`jobs/${job.id}/images/${index}.json`)));
        setView(null);
      } catch (error) {
        explain(error);
      }
    }
    input.current?.focus();
  };
  const reuseKept = (image) => {
    setWholeForm(fromProvenance(image.provenance));
    setDialog("");
  };
  const move = (step) => {
    const all = shown.flatMap((job) => job.images.map((_, index) => ({ jobKey: job.key, index })));
    const at = all.findIndex((item) => item.jobKey === view.jobKey && item.index === view.index);
    if (all[at + step]) setView(all[at + step]);
  };

  useSketch(live, form, sketchSeed, setSketch);
  useKeyboard({ input, generate, view, dialog, busy, setDialog });
  useDrop(upload);

  return html`
    <header class="top">
      <h1>unCLIP studio</h1>
      <nav>
        <button type="button" onClick=${() => setDialog("choose")} disabled=${!form.prompt.trim()}>Choose of 16</button>
        <button type="button" onClick=${() => setDialog("sweep")} disabled=${!form.prompt.trim()}>Sweep</button>
        ${canKeep && html`<button type="button" onClick=${() => setDialog("gallery")}>Gallery</button>`}
        <button type="button" onClick=${() => setDialog("key")}>API key</button>
        <button type="button" aria-label="Help" onClick=${() => setDialog("help")}>?</button>
      </nav>
    </header>
    <main>
      <${PromptBox}
        form=${form} setForm=${setForm} vocabulary=${vocabulary} onGenerate=${generate} onSurprise=${surprise} onUpload=${upload}
        live=${live} setLive=${setLive} sketch=${sketch} busy=${busy} input=${input}
      />
      <${Settings} form=${form} setForm=${setForm} />
      ${notice && html`<p class="notice" role="status">${notice} <button type="button" class="icon" aria-label="Dismiss" onClick=${() => setNotice("")}>✕</button></p>`}
      <div class="jobs">
        ${shown.map((job) => html`<${JobCard} key=${job.key} job=${job} onOpen=${(jobKey, index) => setView({ jobKey, index })} onReuse=${reuse} />`)}
        ${!shown.length && html`<p class="empty">Your images appear here.</p>`}
      </div>
    </main>
    ${view && html`<${ImageView} ...${view} form=${form} canKeep=${canKeep} onClose=${() => setView(null)} onReuse=${reuse} onMove=${move} />`}
    ${dialog === "help" && html`<${Help} onClose=${() => setDialog("")} />`}
    ${dialog === "key" && html`<${ApiKeyDialog} onClose=${() => (setDialog(""), load())} />`}
    ${dialog === "sweep" && html`<${SweepPanel} form=${form} onClose=${() => setDialog("")} />`}
    ${dialog === "gallery" && html`<${GalleryPanel} onClose=${() => setDialog("")} onReuse=${reuseKept} />`}
    ${dialog === "choose" && html`<${ChoosePanel} form=${form} onClose=${() => setDialog("")} />`}
  `;
}

// A 64 px sketch follows the prompt; a new one cancels the one before.
function useSketch(live, form, seed, setSketch) {
  const current = useRef({ job: null, controller: null });
  const key = `${form.prompt}|${form.negative_prompt}|${form.prior}`;
  useDebounced(
    async () => {
      const { job, controller } = current.current;
      controller?.abort();
      if (job) cancelJob(job).catch(() => {});
      current.current = { job: null, controller: null };
      if (!live || !form.prompt.trim()) return;
      const next = new AbortController();
      current.current.controller = next;
      try {
        const body = { ...generateBody({ ...form, seed: form.seed === "" ? seed : form.seed, n: 1 }), size: 64, priority: 1 };
        const { id } = await submit("generate", body, { signal: next.signal });
        if (next.signal.aborted) return void cancelJob(id).catch(() => {});
        current.current.job = id;
        for await (const { event, data } of follow(id, { signal: next.signal })) {
          if (event === "preview") setSketch(data.image);
        }
        if (next.signal.aborted) return;
        const ended = await getJob(id);
        if (ended.images.length) setSketch(ended.images[0].url);
        current.current.job = null;
      } catch {
        // A sketch that fails is not worth a message; the next key stroke asks again.
      }
    },
    [live, key, form.seed],
    SKETCH_AFTER_MS,
  );
}

function useKeyboard({ input, generate, view, dialog, busy, setDialog }) {
  useEffect(() => {
    const onKey = (event) => {
      const typing = /INPUT|TEXTAREA|SELECT/.test(event.target.tagName);
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !view && !dialog) {
        event.preventDefault();
        generate();
      } else if (event.key === "/" && !typing && !view && !dialog) {
        event.preventDefault();
        input.current?.focus();
      } else if (event.key === "?" && !typing && !view) setDialog("help");
      else if (event.key === "Escape" && !view && !dialog && busy) stopAll();
      else if (["ArrowLeft", "ArrowRight"].includes(event.key) && document.activeElement?.dataset?.tile !== undefined) {
        const tiles = [...document.querySelectorAll("[data-tile]")];
        const step = event.key === "ArrowRight" ? 1 : -1;
        tiles[tiles.indexOf(document.activeElement) + step]?.focus();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [generate, view, dialog, busy]);
}

function useDrop(upload) {
  useEffect(() => {
    const over = (event) => event.preventDefault();
    const drop = (event) => {
      event.preventDefault();
      const file = [...(event.dataTransfer?.files || [])].find((one) => one.type.startsWith("image/"));
      if (file) upload(file);
    };
    const paste = (event) => {
      const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
      if (file) upload(file);
    };
    addEventListener("dragover", over);
    addEventListener("drop", drop);
    addEventListener("paste", paste);
    return () => {
      removeEventListener("dragover", over);
      removeEventListener("drop", drop);
      removeEventListener("paste", paste);
    };
  }, [upload]);
}
