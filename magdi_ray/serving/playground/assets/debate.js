/* The teachers' debate over one question: round by round who said what, and what the vote made of it. */
import { count, el, fact, given, many, percent } from "./dom.js";
import { SPLITS } from "./finder.js";
import { bars } from "./votes.js";

const ENDS = { consensus: "all agreed", rounds: "after the last round", error: "by an error" };

const roundTitle = (number, replies) => {
  if (replies.every((reply) => reply.role === "judge")) return "The judge";
  return number === 0 ? "Round 0, each alone" : `Round ${number}, having read the others`;
};

function reply(told) {
  const role = told.role === "debater" ? null : el("span", { class: "sub" }, ` ${told.role}`);
  const sure = told.confidence === null ? null : `confidence ${told.confidence.toFixed(2)}`;
  const changed = told.changed && ["changed from ", told.before === null ? el("em", {}, "no answer") : el("bdi", {}, told.before)];
  return el(
    "li",
    { class: "turn" },
    el("h4", {}, el("bdi", {}, told.agent), role),
    el("p", { class: "said" }, given(told.answer, told.correct)),
    changed && el("p", { class: "sub changed" }, changed),
    sure && el("p", { class: "sub" }, sure),
    el("div", { class: "text", dir: "auto" }, told.text.trim() || el("em", {}, "The reply is empty.")),
  );
}

function rounds(debate) {
  const numbers = [...new Set(debate.replies.map((told) => told.round))];
  return numbers.map((number) => {
    const replies = debate.replies.filter((told) => told.round === number);
    return el("section", { class: "round" }, el("h3", {}, roundTitle(number, replies)), el("ul", { class: "turns" }, replies.map(reply)));
  });
}

function vote(debate) {
  const all = debate.votes.reduce((sum, one) => sum + one.agents.length, 0) || 1;
  const rows = debate.votes.map((one) => ({
    name: given(one.answer, one.correct),
    share: one.agents.length / all,
    words: one.agents.join(", "),
    won: one.won,
    unread: one.answer === null,
  }));
  return el("section", { class: "round" }, el("h3", {}, "Their vote"), bars("The last replies by answer", rows));
}

const LABELLED = {
  vote: "Nobody knows the right answer; replies count as right where they give the team's.",
  judge: "Nobody knows the right answer; replies count as right where they give the judge's.",
  none: "Nobody knows the right answer, so no reply is called right or wrong.",
};

/** Everything about a question of the run. */
export function drawDetail(detail) {
  const { debate, split } = detail;
  const turns = debate ? new Set(debate.replies.map((told) => told.round)).size : 0;
  const learned = { train: "The student was taught from questions like this one.", dev: "Used to watch the training, not trained on." };
  return [
    el("p", { class: "asked", dir: "auto" }, detail.text || el("em", {}, "The question is empty.")),
    el(
      "dl",
      { class: "facts" },
      fact("right answer", detail.gold === null ? el("em", {}, "not known") : el("bdi", { class: "answer", dir: "auto" }, detail.gold)),
      debate && !debate.error && fact("the teachers say", given(debate.answer, debate.correct)),
      debate && !debate.error && fact("agreement", percent(debate.agreement)),
      debate && fact("ended", `${ENDS[debate.stopped] ?? debate.stopped}, ${many(turns, "round")}`),
    ),
    el("p", { class: "note" }, el("bdi", {}, detail.id), ` (${SPLITS[split] ?? split}). `, learned[split] ?? "The student never saw it."),
    !debate && el("p", { class: "note" }, "This question was not debated."),
    debate?.error && el("div", { class: "problem" }, el("p", {}, el("strong", {}, "The debate failed.")), el("p", { dir: "auto" }, debate.error)),
    debate && detail.gold === null && el("p", { class: "note" }, LABELLED[debate.labels] ?? ""),
    debate && rounds(debate),
    debate?.votes.length > 0 && vote(debate),
    debate && el("p", { class: "sub" }, `Protocol ${debate.protocol}, ${count(debate.replies.reduce((sum, told) => sum + told.tokens, 0))} tokens written.`),
  ];
}
