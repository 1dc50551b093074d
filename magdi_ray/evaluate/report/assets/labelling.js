/* What the debates' own vote is worth as labels, and what asking for more agreement buys. */
(() => {
  const { perRun, section, table, inOrder } = report;
  const { percent, count } = report.format;

  const COLUMNS = [
    { name: "debates of", head: true, value: (row) => row.split },
    { name: "agreement at least", number: true, value: (row) => percent(row.least) },
    { name: "debates", number: true, value: (row) => count(row.debates) },
    { name: "kept", number: true, value: (row) => percent(row.kept) },
    { name: "vote right", number: true, value: (row) => percent(row.vote_accuracy) },
    { name: "replies taught", number: true, value: (row) => count(row.taught) },
    { name: "of them right", number: true, value: (row) => percent(row.taught_right) },
    { name: "of right ones taught", number: true, value: (row) => percent(row.right_taught) },
  ];

  function block(run) {
    const splits = inOrder(
      [...new Set(run.labelling.map((row) => row.split))],
      run.sets.map((set) => set.split),
    );
    const rows = splits.flatMap((split) => run.labelling.filter((row) => row.split === split));
    return table("Labels by the debates' own vote", COLUMNS, rows, { shown: false });
  }

  function labelling(data) {
    const found = perRun(data, (run) => run.labelling.length, block, { tables: true });
    const lead =
      "Where gold answers are known: debates labelled by their own vote instead, all of them and those whose agents agree at least so much. Replies taught are those that give the vote's answer; a run that labels by vote learns exactly from them.";
    return found && section("labelling", "Labels without gold answers", lead, found);
  }

  report.sections.push({
    id: "labelling",
    title: "Labels",
    without: "labels by vote (no debate has both a gold answer and one of its own)",
    build: labelling,
  });
})();
