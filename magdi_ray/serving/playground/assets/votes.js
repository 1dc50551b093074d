/* The vote over several replies, and what the teachers said where the student disagreed with itself. */
import { count, el, fact, percent } from "./dom.js";

/** A number that is a count or a weight: as short as it can be told. */
const brief = (value) => (Number.isInteger(value) ? count(value) : value.toFixed(2));

/** One answer: its name, a bar as long as its share, and the figures in words. */
function row({ name, share, words, won, unread }) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span", { style: { width: `${Math.max(share * 100, 1)}%` } }));
  return el(
    "li",
    { class: `vote${won ? " won" : ""}${unread ? " unread" : ""}` },
    el("span", { class: "name" }, name, won && [" ", el("span", { class: "chosen" }, "chosen")]),
    el("span", { class: "figure" }, words),
    bar,
  );
}

/** Bars, one an answer; `rows` as `row` takes them. */
export const bars = (label, rows) => el("ol", { class: "votes", "aria-label": label }, rows.map(row));

/** The answer is the teachers', and a teacher wrote the reply. */
export const byTeacher = (told) => Boolean(told.escalated && !told.escalated.error && told.escalated.answer !== null);

/** `told` is the answer's `magdi` object. */
export function drawVotes(told) {
  const { votes, unread, failed = 0, agreement, aggregate } = told;
  const samples = told.samples - failed; // the replies that were had
  const weighed = aggregate !== "majority";
  const total = weighed ? votes.reduce((sum, vote) => sum + vote.weight, 0) || 1 : samples;
  const words = (vote) => `${count(vote.count)} of ${count(samples)}${weighed ? `, weight ${brief(vote.weight)}` : ""}`;
  const rows = votes.map((vote, i) => ({
    name: el("bdi", { dir: "auto" }, vote.answer),
    share: (weighed ? vote.weight : vote.count) / total,
    words: words(vote),
    won: i === 0 && !byTeacher(told),
  }));
  if (unread) {
    const share = weighed ? 0 : unread / total;
    rows.push({ name: el("em", {}, "no answer read"), share, words: `${count(unread)} of ${count(samples)}`, unread: true });
  }
  const summary = votes.length
    ? [el("strong", {}, percent(agreement)), ` of ${count(samples)} replies give the most frequent answer`]
    : `In none of ${count(samples)} replies an answer could be read`;
  return el(
    "div",
    { class: "outcome" },
    el("h3", {}, "Votes"),
    el("p", { class: "agreement" }, summary, weighed ? "; bars are weights" : "", "."),
    bars(weighed ? "Votes by weight" : "Votes by count", rows),
    told.escalated && drawEscalated(told.escalated),
  );
}

const tokensOf = (tokens) => (typeof tokens === "number" ? tokens : tokens ? (tokens.in ?? 0) + (tokens.out ?? 0) : null);

function drawEscalated(found) {
  const tokens = tokensOf(found.tokens);
  return el(
    "div",
    { class: "escalated" },
    el("h3", {}, "Escalated to the teachers"),
    el("p", {}, "The student disagreed with itself, so its teachers were asked."),
    found.error && el("p", { class: "problem" }, `They came to no verdict: ${found.error}`),
    el(
      "dl",
      { class: "facts" },
      !found.error && fact("they answer", el("bdi", { class: "answer", dir: "auto" }, found.answer ?? "nothing")),
      !found.error && fact("agreement", percent(found.agreement)),
      fact("teachers", el("bdi", {}, (found.agents ?? []).join(", ") || "–")),
      fact("rounds", count(found.rounds)),
      tokens !== null && fact("tokens", found.stored ? "none: debated before" : count(tokens)),
    ),
  );
}
