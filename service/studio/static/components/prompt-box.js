// The prompt: completion from the checkpoint's vocabulary, surprise, live sketch, generate.
import { html, useRef, useState } from "../vendor/preact-htm.js";

const MAX_SUGGESTIONS = 6;

/** Return vocabulary entries that continue the last word of a text before `caret`. */
export function suggestionsFor(text, caret, names) {
  const start = text.slice(0, caret).match(/[\p{L}\p{N}'-]+$/u)?.index;
  if (start === undefined) return [];
  const word = text.slice(start, caret).toLowerCase();
  if (word.length < 2) return [];
  return names
    .filter((name) => name.toLowerCase().startsWith(word) && name.length > word.length)
    .sort((a, b) => a.length - b.length)
    .slice(0, MAX_SUGGESTIONS)
    .map((name) => ({ name, start, end: caret }));
}

export function PromptBox({ form, setForm, vocabulary, onGenerate, onSurprise, onUpload, live, setLive, sketch, busy, input }) {
  const [suggestions, setSuggestions] = useState([]);
  const [active, setActive] = useState(-1);
  const file = useRef();
  const names = vocabulary?.names || [];
  const onInput = (event) => {
    const { value, selectionStart } = event.target;
    setForm({ prompt: value });
    setSuggestions(suggestionsFor(value, selectionStart, names));
    setActive(-1);
  };
  const choose = ({ name, start, end }) => {
    const text = form.prompt.slice(0, start) + name + form.prompt.slice(end);
    setForm({ prompt: text });
    setSuggestions([]);
    requestAnimationFrame(() => {
      input.current.focus();
      input.current.setSelectionRange(start + name.length, start + name.length);
    });
  };
  const onKeyDown = (event) => {
    if (suggestions.length && ["ArrowDown", "ArrowUp"].includes(event.key)) {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      setActive((active + step + suggestions.length) % suggestions.length);
    } else if (suggestions.length && event.key === "Tab" && !event.shiftKey) {
      event.preventDefault();
      choose(suggestions[Math.max(active, 0)]);
    } else if (suggestions.length && event.key === "Escape") {
      event.stopPropagation();
      setSuggestions([]);
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (active >= 0 && suggestions.length) choose(suggestions[active]);
      else onGenerate();
    }
  };
  const listed = suggestions.length > 0;
  return html`<form class="prompt" onSubmit=${(event) => (event.preventDefault(), onGenerate())}>
    <div class="prompt-row">
      <div class="prompt-field">
        <label class="label" for="prompt">Describe an image</label>
        <textarea
          id="prompt" ref=${input} rows="2" maxlength="1000" value=${form.prompt} placeholder="Type what the image shows"
          role="combobox" aria-autocomplete="list" aria-expanded=${listed} aria-controls="suggestions"
          aria-activedescendant=${active >= 0 && listed ? `suggestion-${active}` : undefined}
          autocapitalize="off" autocomplete="off" spellcheck="true"
          onInput=${onInput} onKeyDown=${onKeyDown} onBlur=${() => setTimeout(() => setSuggestions([]), 150)}
        ></textarea>
        <ul id="suggestions" role="listbox" aria-label="Words that the model knows" hidden=${!listed}>
          ${suggestions.map(
            (suggestion, index) => html`<li
              id=${`suggestion-${index}`} role="option" aria-selected=${index === active} key=${suggestion.name}
              onMouseDown=${(event) => (event.preventDefault(), choose(suggestion))}
            >${suggestion.name}</li>`,
          )}
        </ul>
      </div>
      ${live &&
      html`<div class="sketch" aria-live="off">
        ${sketch ? html`<img src=${sketch} alt="Live sketch of the prompt" width="96" height="96" />` : html`<span>sketch</span>`}
      </div>`}
    </div>
    <div class="prompt-actions">
      <button class="primary" type="submit" disabled=${!form.prompt.trim()}>${busy ? "Generate more" : "Generate"}</button>
      ${onSurprise && html`<button type="button" onClick=${onSurprise}>Surprise me</button>`}
      <button type="button" onClick=${() => file.current.click()}>Upload image</button>
      <input
        ref=${file} type="file" accept="image/*" class="visually-hidden" tabindex="-1" aria-label="Upload image"
        onChange=${(event) => (event.target.files[0] && onUpload(event.target.files[0]), (event.target.value = ""))}
      />
      <label class="switch"><input type="checkbox" checked=${live} onChange=${(event) => setLive(event.target.checked)} /> Live sketch</label>
    </div>
  </form>`;
}
