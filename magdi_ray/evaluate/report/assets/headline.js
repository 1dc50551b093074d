/* The result in one sentence, computed from the scores. */
(() => {
  const { el, section } = report;
  const { hundred, percent, interval, tokens, signed, count, brief } = report.format;

  const scoreOf = (run, set, test) => run.scores.filter((score) => score.set === set.id && test(score));
  const single = (rows) => rows.find((row) => row.method === "single") ?? rows[0];

  /** The two scores a run is about on one set; either may be missing. */
  function pair(run, set) {
    const of = (kind) => run.systems.filter(kind).map((system) => system.id);
    const products = of((system) => system.product),
      debates = of((system) => system.kind === "debate");
    return [
      single(scoreOf(run, set, (row) => products.includes(row.system))),
      single(scoreOf(run, set, (row) => debates.includes(row.system))),
    ];
  }

  const bold = (text) => el("strong", {}, text);

  /** What the run says to the claim that the student is close to the debate: the claim that names a bound. */
  const closeness = (run, set) => run.orderings.find((row) => row.set === set.id && row.bound);
  const far = (row) => row && row.high < row.bound;

  /** Savings stand out only where the student is known not to be far below the debate. */
  function ratio(student, debate, close) {
    if (!student.tokens_out || !debate.tokens_out) return "";
    const times = debate.tokens_out / student.tokens_out;
    if (times > 0.95 && times < 1.05) return ": as many tokens";
    const fewer = `${times.toFixed(1)} times fewer tokens`;
    return times > 1 ? [": ", close ? bold(fewer) : fewer] : `: ${(1 / times).toFixed(1)} times more tokens`;
  }

  const claim = (run, row) => [
    `${brief(run, row.system)} answers `,
    bold(`${percent(row.accuracy)} right`),
    ` (${interval(row.low, row.high)}) with `,
    bold(tokens(row.tokens_out)),
    " tokens a question",
  ];

  const figures = (row) => `${percent(row.accuracy)} (${interval(row.low, row.high)})`;

  /** A student far below the debate: the loss comes first, and nothing is praised. */
  const loss = (run, student, debate, row) => [
    `${brief(run, student.system)} is right ${hundred(-row.difference)} points less often than ${brief(run, debate.system)}: `,
    `${figures(student)} against ${figures(debate)}, with ${tokens(student.tokens_out)} against ${tokens(debate.tokens_out)} tokens a question.`,
  ];

  function sentence(run, set) {
    const [student, debate] = pair(run, set),
      held = closeness(run, set);
    if (student && debate && far(held)) return loss(run, student, debate, held);
    if (student && debate) {
      return [
        claim(run, student),
        `; ${brief(run, debate.system)} `,
        bold(percent(debate.accuracy)),
        ` (${interval(debate.low, debate.high)}) with `,
        bold(tokens(debate.tokens_out)),
        ratio(student, debate, Boolean(held)),
        ".",
      ];
    }
    const row = student ?? debate ?? single(scoreOf(run, set, () => true));
    return row ? [claim(run, row), "."] : null;
  }

  /** What the paired differences add: how far from the debate, how far from where it started. */
  function further(run, set) {
    const [student, debate] = pair(run, set);
    if (!student) return null;
    const told = run.differences
      .filter((row) => row.set === set.id && row.system === student.system && row.method === student.method)
      .map((row) => {
        const base = report.format.kind(run, row.reference) === "base",
          name = base ? "the base model" : brief(run, row.reference);
        if (row.reference !== debate?.system && !base) return null;
        const ends = [row.low, row.high].sort((a, b) => Math.abs(a) - Math.abs(b)).map(Math.abs);
        if (row.low > 0 || row.high < 0)
          return `${row.low > 0 ? "above" : "below"} ${name} by ${hundred(Math.abs(row.difference))} points (${interval(...ends)})`;
        return `not told apart from ${name} (${signed(row.difference)} points, ${interval(row.low, row.high, signed)})`;
      })
      .filter(Boolean);
    return told.length ? `On the same questions it is ${told.join(" and ")}.` : null;
  }

  function block(run, several) {
    const order = [...run.sets].sort((a, b) => Number(pair(run, b).every(Boolean)) - Number(pair(run, a).every(Boolean)));
    const [first, ...others] = order.filter((set) => sentence(run, set));
    if (!first)
      return el(
        "div",
        { class: "run" },
        el("p", { class: "note" }, `${run.label}: nothing was evaluated yet, so there is no result to state.`),
      );
    const note = `${first.id}, ${count(first.questions)} questions, ${first.domain === "out" ? "out of" : "in"} domain. In brackets: 95% intervals.`;
    return el(
      "div",
      { class: "run" },
      several && el("h2", { class: "label" }, run.label),
      el("p", { class: several ? "headline lesser" : "headline" }, sentence(run, first)),
      el("p", { class: "lead" }, further(run, first), " ", note),
      others.length > 0 &&
        el(
          "ul",
          { class: "others" },
          others.map((set) =>
            el(
              "li",
              {},
              el("span", { class: "where" }, `${set.id}${set.domain === "out" ? ", out of domain" : ""}: `),
              sentence(run, set),
            ),
          ),
        ),
    );
  }

  function headline(data) {
    const several = data.runs.length > 1;
    return el(
      "header",
      { class: "intro" },
      el("h1", {}, data.title),
      el(
        "div",
        { class: several ? "runs" : null },
        data.runs.map((run) => block(run, several)),
      ),
    );
  }

  Object.assign(report, { headline, single });
})();
