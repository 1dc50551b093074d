/* The page, put together: what the server can do, the key, asking, and the run's questions beside it. */
import { ask, key } from "./api.js";
import { choose, configure, setUpAsking, start } from "./ask.js";
import { drawDetail } from "./debate.js";
import { announce, at, el, narrow, problem } from "./dom.js";
import { Finder } from "./finder.js";
import { setUpTheme } from "./theme.js";

const coarse = window.matchMedia("(pointer: coarse)");
const KEY_NOTE = "Kept in this tab only, and forgotten when it is closed.";

function showKey(open, note = KEY_NOTE) {
  at("key-form").hidden = !open;
  at("key-toggle").hidden = false;
  at("key-toggle").setAttribute("aria-expanded", String(open));
  at("key-note").textContent = note;
  if (open) at("key").focus();
}

function refusedKey() {
  if (at("trouble").childElementCount) return void open();
  showKey(true, key.get() ? "The server did not accept this key. Enter another one." : `This server asks for an API key. ${KEY_NOTE}`);
}

function setUpKey() {
  at("key").value = key.get();
  at("key-toggle").addEventListener("click", () => showKey(at("key-form").hidden));
  at("key-forget").addEventListener("click", () => {
    key.set("");
    at("key").value = "";
    showKey(true, "Forgotten.");
  });
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key.set(at("key").value.trim());
    void open();
  });
}

/** Ask the server what it can do, and show that. Called again with every new key. */
async function open() {
  at("trouble").replaceChildren();
  try {
    const [config, models] = await Promise.all([ask("playground/config"), ask("v1/models")]);
    const names = models.data.map((card) => card.id);
    configure(config, names.length ? names : [config.model]);
    at("model-name").textContent = config.model;
    document.title = `${config.model} · ask the student`;
    at("key-form").hidden = true;
    at("key-toggle").hidden = !config.keys && !key.get();
    at("key-toggle").setAttribute("aria-expanded", "false");
    if (config.run) showRun();
    const idle = document.activeElement === document.body || !document.activeElement?.offsetParent;
    // On a phone the keyboard would cover the page before it was seen.
    if (idle && !coarse.matches) at("question").focus({ preventScroll: true });
  } catch (error) {
    if (error.status === 401) refusedKey();
    else at("trouble").replaceChildren(problem(error, open));
  }
}

/** The right column: the list of questions, or the one that was chosen with its debate. */
function showRun() {
  const pane = at("run");
  pane.hidden = false;
  at("main").classList.add("two");
  at("to-run").hidden = false;
  const holder = el("div", { class: "detail" });
  const title = el("h2", { id: "run-title", tabindex: -1 }, "Questions of the run");
  const back = el("button", { type: "button", hidden: true }, "All questions");
  const askThis = el("button", { type: "button", class: "primary", hidden: true, onclick: () => start() }, "Ask the student this");
  const lead = el("p", { class: "lead" }, "Choose one to see what the teachers said, and put it to the student.");
  const finder = new Finder((id) => void load(id));
  let asked = null;

  function list(on) {
    for (const node of [finder.node, lead]) node.hidden = !on;
    for (const node of [holder, back]) node.hidden = on;
    askThis.hidden = on || !narrow.matches;
    title.textContent = on ? "Questions of the run" : "The teachers' debate";
  }

  async function load(id) {
    list(false);
    holder.replaceChildren(el("p", { class: "note" }, "Reading the debate…"));
    title.focus();
    asked = id;
    try {
      const detail = await ask(`playground/questions/${encodeURIComponent(id)}`);
      if (asked !== id) return;
      holder.replaceChildren(...drawDetail(detail).flat(Infinity).filter(Boolean));
      choose(detail);
      announce(`${detail.id} is in the question box. The teachers' debate is shown.`);
    } catch (error) {
      if (asked === id) holder.replaceChildren(problem(error, () => load(id)));
    }
  }

  back.addEventListener("click", () => {
    asked = null;
    list(true);
    finder.focus();
  });
  pane.replaceChildren(el("div", { class: "head" }, title, askThis, back), lead, finder.node, holder);
  list(true);
  void finder.load();
}

setUpTheme();
setUpKey();
setUpAsking(refusedKey);
void open();
