/* How training went: one small chart an objective, one line a recipe and seed. */
(() => {
  const { el, svg, perRun, section, lineChart, table, drawer } = report;
  const { known, decimal, plain, short, percent, count } = report.format;

  const PARTS = {
    loss: "total loss",
    next_token: "next token",
    contrast: "contrast",
    interaction: "interaction",
    "dev loss": "loss on dev questions",
    "dev accuracy": "accuracy on dev questions",
  };
  const nameOf = (part) => PARTS[part] ?? part.replaceAll("_", " ");
  const called = (curve) => `${curve.recipe}, seed ${curve.seed}`;

  /** The parts of a curve, without a total that is its only term once more. */
  function partsOf(curve) {
    const { loss, ...terms } = curve.parts ?? {};
    const only = Object.values(terms).length === 1 ? Object.values(terms)[0] : null;
    const same =
      loss && only?.length === loss.length && loss.every(([step, value], i) => step === only[i][0] && value === only[i][1]);
    return Object.entries(same ? terms : (curve.parts ?? {}));
  }

  /** Part -> [[curve, points]], training parts first. */
  function panels(run) {
    const found = new Map();
    const add = (part, curve, points) => {
      if (points.some((point) => known(point[1]))) found.set(part, [...(found.get(part) ?? []), [curve, points]]);
    };
    for (const curve of run.curves) for (const [part, points] of partsOf(curve)) add(part, curve, points);
    for (const curve of run.curves) {
      add(
        "dev loss",
        curve,
        (curve.dev ?? []).map(([step, loss]) => [step, loss]),
      );
      add(
        "dev accuracy",
        curve,
        (curve.dev ?? []).map(([step, , accuracy]) => [step, accuracy]),
      );
    }
    return found;
  }

  const isShare = (part) => part === "dev accuracy";

  function legend(recipes) {
    return el(
      "ul",
      { class: "legend" },
      recipes.map((recipe, i) =>
        el(
          "li",
          {},
          svg(
            "svg",
            { width: 34, height: 12, "aria-hidden": "true" },
            svg("g", { class: `series s${i % 6}` }, svg("path", { class: "line", d: "M1,6H33" })),
          ),
          recipe,
        ),
      ),
    );
  }

  function finals(found) {
    const rows = [...found].flatMap(([part, lines]) =>
      lines.map(([curve, points]) => {
        const seen = points.filter((point) => known(point[1]));
        return { part, curve, first: seen[0], last: seen[seen.length - 1] };
      }),
    );
    const figure = (row, value) => (isShare(row.part) ? percent(value) : decimal(value));
    return drawer(
      "First and last values as a table",
      table(
        "Curves in figures",
        [
          { name: "curve", head: true, value: (row) => `${nameOf(row.part)}: ${called(row.curve)}` },
          { name: "first", number: true, value: (row) => figure(row, row.first[1]) },
          { name: "last", number: true, value: (row) => figure(row, row.last[1]) },
          { name: "at step", number: true, value: (row) => count(row.last[0]) },
        ],
        rows,
      ),
    );
  }

  function block(run, level) {
    const recipes = [...new Set(run.curves.map((curve) => curve.recipe))],
      found = panels(run);
    const toggle = el("input", { type: "checkbox" });
    const charts = [...found].map(([part, lines]) => {
      const series = lines.map(([curve, points]) => ({ name: called(curve), style: recipes.indexOf(curve.recipe), points }));
      const share = isShare(part);
      const drawn = lineChart(series, {
        name: `${nameOf(part)} by training step`,
        yFormat: share ? short : decimal,
        yAxis: share ? short : plain,
        xFormat: count,
        xName: "step",
        logY: () => toggle.checked && !share,
        dots: part.startsWith("dev"),
      });
      return [drawn, el("div", { class: "panel" }, el(level, {}, nameOf(part)), drawn)];
    });
    toggle.addEventListener("change", () => charts.forEach(([drawn]) => drawn.redraw()));
    return [
      el("div", { class: "controls" }, legend(recipes), el("label", {}, toggle, " logarithmic losses")),
      el(
        "div",
        { class: "panels" },
        charts.map(([, panel]) => panel),
      ),
      finals(found),
    ];
  }

  function curves(data) {
    const found = perRun(data, (run) => run.curves.length && panels(run).size, block);
    return (
      found &&
      section(
        "training",
        "Training",
        "One colour and dash a recipe, one line a training. A total that is the recipe's only term is drawn as that term alone. Long curves are drawn as means of neighbouring steps.",
        found,
      )
    );
  }

  report.sections.push({
    id: "training",
    title: "Training",
    without: "training curves (nothing was trained here)",
    build: curves,
  });
})();
