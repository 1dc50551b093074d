/* Scales, axes, marks, and charts that are drawn again when their room changes. */
(() => {
  const { el, svg } = report;

  const linear = ([a, b], [from, to]) =>
    Object.assign((value) => from + ((value - a) / (b - a || 1)) * (to - from), { domain: [a, b] });
  const log = ([a, b], range) => {
    const scale = linear([Math.log10(a), Math.log10(b)], range);
    return Object.assign((value) => scale(Math.log10(value)), { domain: [a, b] });
  };

  /** At most about `n` round numbers in [a, b]. */
  function ticks([a, b], n) {
    const rough = (b - a) / Math.max(n, 1) || 1,
      power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999) ?? power;
    const first = Math.ceil(a / step - 1e-9);
    return Array.from({ length: Math.max(0, Math.floor(b / step + 1e-9) - first + 1) }, (_, i) =>
      Number(((first + i) * step).toPrecision(12)),
    );
  }

  /** 1, 2, 5, 10, ... in [a, b], thinned to at most `n`. */
  function logTicks([a, b], n) {
    const all = [];
    for (let power = Math.floor(Math.log10(a)); power <= Math.ceil(Math.log10(b)); power += 1)
      all.push(...[1, 2, 5].map((factor) => factor * 10 ** power));
    const inside = all.map((value) => Number(value.toPrecision(6))).filter((value) => value >= a * 0.999 && value <= b * 1.001);
    const tens = inside.filter((value) => Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-6);
    return inside.length <= n || tens.length < 2 ? inside : tens;
  }

  /** Grid and figures of a vertical axis. */
  const yAxis = (scale, values, format, left, right) =>
    svg(
      "g",
      { class: "axis", "aria-hidden": "true" },
      values.map((value) => [
        svg("line", { x1: left, x2: right, y1: scale(value), y2: scale(value), class: "grid" }),
        svg("text", { x: left - 8, y: scale(value) + 4, "text-anchor": "end" }, format(value)),
      ]),
    );

  /** Figures and name of a horizontal axis. */
  const xAxis = (scale, values, format, bottom, name, middle) =>
    svg(
      "g",
      { class: "axis", "aria-hidden": "true" },
      values.map((value) => [
        svg("line", { x1: scale(value), x2: scale(value), y1: bottom, y2: bottom + 5, class: "tick" }),
        svg("text", { x: scale(value), y: bottom + 19, "text-anchor": "middle" }, format(value)),
      ]),
      name && svg("text", { x: middle, y: bottom + 39, "text-anchor": "middle", class: "axis-name" }, name),
    );

  const SHAPES = {
    circle: (r) => `M${-r},0A${r},${r} 0 1 1 ${r},0A${r},${r} 0 1 1 ${-r},0Z`,
    square: (r) => `M${-r * 0.88},${-r * 0.88}H${r * 0.88}V${r * 0.88}H${-r * 0.88}Z`,
    triangle: (r) => `M0,${-r * 1.15}L${r * 1.1},${r * 0.85}H${-r * 1.1}Z`,
    diamond: (r) => `M0,${-r * 1.35}L${r * 1.35},0L0,${r * 1.35}L${-r * 1.35},0Z`,
    pentagon: (r) => `M0,${-r * 1.15}L${r * 1.1},${-r * 0.35}L${r * 0.68},${r * 0.95}H${-r * 0.68}L${-r * 1.1},${-r * 0.35}Z`,
  };
  /** Shape of every kind of system; the colour goes by the class of the same name. */
  const KINDS = {
    base: { shape: "circle", text: "base model" },
    student: { shape: "circle", text: "student" },
    teacher: { shape: "triangle", text: "teacher" },
    debate: { shape: "diamond", text: "debate" },
    engine: { shape: "square", text: "other model" },
  };
  const mark = (kind, r = 6, extra = "") =>
    svg("path", { d: SHAPES[(KINDS[kind] ?? KINDS.engine).shape](r), class: `mark kind-${kind} ${extra}` });

  /** A place whose drawing follows its width: `draw(width)` returns a node. */
  function chart(draw, height) {
    const holder = el("div", { class: "chart", style: { minHeight: `${height}px` } });
    let width = 0;
    const redraw = () => {
      const now = Math.floor(holder.clientWidth);
      if (!now || now === width) return;
      width = now;
      holder.replaceChildren(draw(width));
    };
    new ResizeObserver(() => requestAnimationFrame(redraw)).observe(holder);
    holder.redraw = () => {
      width = 0;
      redraw();
    };
    return holder;
  }

  /** Marks that tell something are one stop of the tab key; the arrow keys go from one to the next. */
  function roving(node) {
    const marks = [...node.querySelectorAll("[tabindex]")];
    const stop = (chosen) => marks.forEach((mark) => mark.setAttribute("tabindex", mark === chosen ? 0 : -1));
    stop(marks[0]);
    node.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = by && marks[marks.indexOf(document.activeElement) + by];
      if (!next) return;
      event.preventDefault();
      stop(next);
      next.focus();
    });
    return node;
  }

  /** The outermost element of a drawing; what it says as a whole is its name. */
  const canvas = (width, height, name, ...children) =>
    roving(svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": name }, children));

  Object.assign(report, { linear, log, ticks, logTicks, yAxis, xAxis, KINDS, mark, chart, canvas });
})();
