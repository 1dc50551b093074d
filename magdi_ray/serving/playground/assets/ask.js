/* Asking: the form, the stream, the vote, and how it ended. */
import { Problem, ask, stream } from "./api.js";
import { announce, at, count, el, fact, given, narrow, percent, problem, seconds } from "./dom.js";
import { byTeacher, drawVotes } from "./votes.js";

const COMPLETIONS = "v1/chat/completions";
const EMPTY = "The reply appears here as it is written.";
const VOTED_TEMPERATURE = "0.7";
/* A reply is read out whole when it is complete, unless it is so long. */
const READ_OUT = 400;

let config = null;
let running = null;
/** The run's question that was last chosen: {id, prompt, split}. */
let chosen = null;
let onRefusedKey = () => {};

const field = (id) => at(id).value.trim();
const several = () => document.querySelector("input[name=mode]:checked").value === "votes";

/** Wire the form; `refused` is called where the server wants another key, or has told nothing of itself yet. */
export function setUpAsking(refused) {
  onRefusedKey = refused;
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  at("stop").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      start();
    } else if (event.key === "Escape") stop();
  });
  for (const radio of document.querySelectorAll("input[name=mode]")) radio.addEventListener("change", showMode);
  at("temperature").addEventListener("input", (event) => event.target.setAttribute("data-own", ""));
  at("question").addEventListener("input", showOrigin);
  if (/Mac|iPhone|iPad/.test(navigator.platform)) document.querySelector(".keys kbd").textContent = "⌘";
  clear(EMPTY);
}

/** What the server can do; null while that is not known. */
export function configure(told, models) {
  config = told;
  at("model").replaceChildren(...models.map((id) => el("option", { value: id, selected: id === told.model }, id)));
  at("model-field").hidden = models.length < 2;
  at("max_tokens").placeholder = `${count(told.default_max_tokens)} tokens`;
  const most = Math.min(32, told.max_samples);
  at("samples").max = String(most);
  at("samples").value = String(Math.min(Number(at("samples").value), most));
  at("escalate-field").hidden = !told.escalate;
  for (const rated of at("aggregate").querySelectorAll("[value=verifier], [value=best]")) {
    rated.disabled = told.verifier === false;
    if (rated.disabled) rated.textContent = `${rated.value === "best" ? "best" : "weight"} (not taught to this student)`;
  }
  const votes = document.querySelector("input[name=mode][value=votes]");
  votes.disabled = !told.task || most < 2;
  if (votes.disabled) votes.nextElementSibling.textContent = "Several, and a vote (needs a task, to read answers)";
}

/** Put a question of the run into the box, exactly as it is put to models. */
export function choose(question) {
  chosen = question;
  at("question").value = question.prompt;
  if (!running) clear(EMPTY);
  showOrigin();
}

/** Ask what stands in the form. */
export function start() {
  if (running) return;
  if (!config) return onRefusedKey();
  const question = at("question");
  const same = several() && Number(field("temperature")) === 0;
  at("temperature").setCustomValidity(same ? "At 0 all replies are the same, and a vote says nothing. Choose more, such as 0.7." : "");
  question.setCustomValidity(question.value.trim() ? "" : "Write a question first, or choose one of the run.");
  if (!at("ask").checkValidity()) at("settings").open ||= Boolean(at("settings").querySelector(":invalid"));
  if (!at("ask").reportValidity()) return;
  void run();
}

function stop() {
  running?.abort();
}

function showMode() {
  at("votes-fields").hidden = !several();
  for (const input of at("votes-fields").querySelectorAll("input, select")) input.disabled = !several();
  const temperature = at("temperature");
  if (!temperature.hasAttribute("data-own")) temperature.value = several() ? VOTED_TEMPERATURE : "0";
}

function showOrigin() {
  at("question").setCustomValidity("");
  const place = at("origin");
  if (!chosen) place.textContent = "";
  else if (isChosen()) place.replaceChildren("Exactly the prompt models are given for ", el("bdi", {}, chosen.id), ".");
  else place.replaceChildren("Changed: no longer the prompt of ", el("bdi", {}, chosen.id), ".");
}

const isChosen = () => chosen !== null && at("question").value === chosen.prompt;

/** Figures of the reply; the places stay where they are while figures come in. */
function showStats({ first, total, tokens, rate, prompt }) {
  const known = (value, shown) => (value === undefined || value === null ? "–" : shown(value));
  at("stats").replaceChildren(
    fact("first token", known(first, seconds)),
    fact("in all", known(total, seconds)),
    fact("tokens", known(tokens, count)),
    fact("tokens/s", known(rate, (value) => (value < 10 ? value.toFixed(1) : count(Math.round(value))))),
    fact("prompt", known(prompt, (value) => `${count(value)} tokens`)),
  );
}

function showState(text, kind = "") {
  const state = at("state");
  state.className = `state ${kind}`;
  state.textContent = text;
}

/** The body of the request, from the form. */
function body() {
  const request = {
    model: field("model") || config.model,
    messages: [{ role: "user", content: at("question").value }],
    temperature: Number(field("temperature")),
    top_p: Number(field("top_p")),
  };
  if (field("max_tokens")) request.max_tokens = Number(field("max_tokens"));
  if (field("seed")) request.seed = Number(field("seed"));
  if (!several()) return { ...request, stream: true, stream_options: { include_usage: true } };
  const magdi = { samples: Number(field("samples")), aggregate: field("aggregate") };
  if (config.escalate && at("escalate").checked) magdi.escalate_below = Number(field("threshold")) / 100;
  return { ...request, magdi };
}

async function run() {
  const request = body();
  const about = isChosen() ? chosen : null;
  running = new AbortController();
  begin(request);
  const began = performance.now();
  try {
    const ended = await (request.stream ? once : votes)(request, running.signal, began);
    finish(ended, request);
    if (about && !at("reply").classList.contains("empty")) await judge(about);
  } catch (error) {
    if (error.name === "AbortError") {
      showState(`stopped after ${seconds((performance.now() - began) / 1000)}`);
      announce("Stopped.");
    } else {
      showState("failed", "failed");
      at("ask-problem").replaceChildren(problem(error, start));
      if (error.status === 401) onRefusedKey();
    }
    if (!at("reply").textContent) showNothing("No reply.");
  } finally {
    running = null;
    busy(false);
  }
}

function showNothing(why) {
  at("reply").classList.add("empty");
  at("reply").textContent = why;
}

/** The result as it is before anything was asked; a reply to another question is not left beside the new one. */
function clear(why) {
  showStats({});
  showState("");
  for (const id of ["ask-problem", "outcome", "verdict"]) at(id).replaceChildren();
  at("reply").classList.remove("teacher");
  showNothing(why);
}

function begin(request) {
  busy(true);
  clear("");
  at("reply").classList.remove("empty");
  showState(request.stream ? "reading the question" : `drawing ${count(request.magdi.samples)} replies`, "working");
  announce("Asked. The student is answering.");
  if (narrow.matches) at("result").scrollIntoView({ block: "start" });
}

function busy(on) {
  at("go").setAttribute("aria-disabled", String(on));
  at("stop").setAttribute("aria-disabled", String(!on));
  at("result").setAttribute("aria-busy", String(on));
}

/** One reply, as it is written. */
async function once(request, signal, began) {
  const text = new Text();
  at("reply").append(text);
  const stats = {};
  let reason = null;
  let last = began;
  for await (const event of stream(COMPLETIONS, { body: request, signal })) {
    const choice = event.choices?.[0];
    const piece = choice?.delta?.content;
    if (piece) {
      last = performance.now();
      if (stats.first === undefined) {
        stats.first = (last - began) / 1000;
        showStats(stats);
        showState("writing", "working");
      }
      text.appendData(piece);
    }
    reason = choice?.finish_reason ?? reason;
    if (event.usage) Object.assign(stats, { tokens: event.usage.completion_tokens, prompt: event.usage.prompt_tokens });
  }
  stats.total = (performance.now() - began) / 1000;
  const written = (last - began) / 1000 - (stats.first ?? 0);
  if (stats.tokens > 1 && written > 0.001) stats.rate = (stats.tokens - 1) / written;
  showStats(stats);
  return reason;
}

/** Several replies, and their vote. */
async function votes(request, signal, began) {
  const answer = await ask(COMPLETIONS, { body: request, signal });
  const told = answer.magdi;
  if (!told) throw new Problem({ title: "The server held no vote.", message: "Its answer has no `magdi` object." });
  const choice = answer.choices[0];
  const total = (performance.now() - began) / 1000;
  const { completion_tokens: tokens, prompt_tokens: prompt } = answer.usage ?? {};
  showStats({ total, tokens, prompt, rate: tokens / total });
  at("outcome").replaceChildren(drawVotes(told), el("h3", {}, replyTitle(told)));
  at("reply").classList.toggle("teacher", byTeacher(told));
  at("reply").textContent = choice.message.content;
  announce(`${told.answer === null ? "No answer" : `Answer ${told.answer}`}, ${percent(told.agreement)} agree.`);
  return choice.finish_reason;
}

const replyTitle = (told) => (byTeacher(told) ? "A teacher's reply with their answer" : "A reply of the student with that answer");

function finish(reason, request) {
  const cut = reason === "length";
  showState(cut ? "cut off at the longest reply allowed" : "complete", cut ? "cut" : "");
  const text = at("reply").textContent;
  if (!text) showNothing("The reply is empty.");
  if (!request.stream) return;
  announce(`Reply complete. ${text.length > READ_OUT ? `${text.length} characters.` : text}`);
}

/** What a reply to a question of the run comes to, read by the rules of its task. */
async function judge(about) {
  try {
    const said = { reply: at("reply").textContent };
    const { answer, correct } = await ask(`playground/read/${encodeURIComponent(about.id)}`, { body: said });
    if (chosen !== about || running === null) return;
    const gold = about.gold === null || correct ? "" : [", where ", el("bdi", { class: "answer" }, about.gold), " is right"];
    at("verdict").replaceChildren("Read as ", given(answer, correct), gold, ".");
  } catch (error) {
    at("verdict").replaceChildren(problem(error));
  }
}
