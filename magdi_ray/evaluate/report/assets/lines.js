/* A line chart: one line a series, named at its end where there is room, with figures under the pointer. */
(() => {
  const { svg, chart, canvas, linear, log, ticks, logTicks, xAxis, yAxis, spread, textWidth, showTip, hideTip } = report;
  const { known } = report.format;

  /** At most `most` points, each the mean of its neighbours; a gap stays a gap. */
  function thinned(points, most) {
    if (points.length <= most) return points;
    const size = Math.ceil(points.length / most),
      result = [];
    for (let i = 0; i < points.length; i += size) {
      const group = points.slice(i, i + size).filter((point) => known(point[1]));
      if (group.length) result.push([0, 1].map((k) => group.reduce((sum, point) => sum + point[k], 0) / group.length));
    }
    return result;
  }

  const path = (points, x, y, usable) => {
    let pen = "M",
      text = "";
    for (const [a, b] of points) {
      if (!usable(b)) {
        pen = "M";
        continue;
      }
      text += `${pen}${x(a).toFixed(1)},${y(b).toFixed(1)}`;
      pen = "L";
    }
    return text;
  };

  function domains(series, { yDomain, logY }) {
    const usable = (value) => known(value) && (!logY || value > 0);
    const all = series.flatMap((one) => one.points).filter((point) => usable(point[1]));
    const xs = all.map((point) => point[0]),
      ys = all.map((point) => point[1]);
    const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity),
      most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
    const low = least(ys),
      high = most(ys),
      room = (high - low || Math.abs(high) || 1) * 0.06;
    return {
      usable,
      x: [least(xs), most(xs)],
      y: yDomain ?? (logY ? [low / 1.1, high * 1.1] : [low >= 0 && low < high * 0.5 ? 0 : low - room, high + room]),
    };
  }

  /** The value of a series at the step nearest to `step`. */
  const nearest = (points, step) =>
    points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));

  function hover(node, series, x, bounds, { xName, xFormat, yFormat }) {
    const steps = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
    const rule = svg("line", { class: "rule", y1: bounds.top, y2: bounds.bottom, x1: 0, x2: 0, visibility: "hidden" });
    node.append(rule);
    node.addEventListener("pointermove", (event) => {
      const place = event.clientX - node.getBoundingClientRect().left;
      const step = steps.reduce((best, next) => (Math.abs(x(next) - place) < Math.abs(x(best) - place) ? next : best), steps[0]);
      for (const end of ["x1", "x2"]) rule.setAttribute(end, x(step));
      rule.setAttribute("visibility", "visible");
      showTip(
        [`${xName} ${xFormat(step)}`, ...series.map((one) => `${one.name}: ${yFormat(nearest(one.points, step)[1])}`)],
        event,
      );
    });
    node.addEventListener("pointerleave", () => {
      rule.setAttribute("visibility", "hidden");
      hideTip();
    });
  }

  /** `series` are {name, style (a number), points [[x, y]], label}. Options: name, height, yFormat, yAxis (its ticks), xFormat, xName, yDomain, logY, dots, xTicks. */
  function lineChart(series, options) {
    const { name, height = 210, yFormat, xFormat, dots = false } = options;
    const filled = series
      .map((one) => ({ ...one, points: one.points.filter((point) => known(point[0])) }))
      .filter((one) => one.points.length);
    return chart((width) => {
      const { usable, x: xs, y: ys } = domains(filled, { ...options, logY: options.logY?.() ?? false });
      const labels = filled.filter((one) => one.label);
      const side = labels.length
        ? Math.min(width * 0.4, 14 + Math.max(...labels.map((one) => textWidth(one.label, "13px"))))
        : 12;
      const bounds = { left: 48, right: width - side, top: 10, bottom: height - 46 };
      const logY = options.logY?.() ?? false;
      const x = linear(xs, [bounds.left, bounds.right]),
        y = (logY ? log : linear)(ys, [bounds.bottom, bounds.top]);
      const lines = filled.map((one) => {
        const points = dots ? one.points : thinned(one.points, Math.max(40, width / 3));
        return svg(
          "g",
          { class: `series s${one.style % 6}` },
          svg("path", { class: "line", d: path(points, x, y, usable) }),
          dots &&
            points
              .filter((point) => usable(point[1]))
              .map((point) => svg("circle", { cx: x(point[0]), cy: y(point[1]), r: 3.5 })),
        );
      });
      const ends = labels
        .map((one) => [...one.points].reverse().find((point) => usable(point[1])))
        .map((point) => (point ? y(point[1]) : bounds.bottom));
      const heights = spread(ends, 15, bounds.top + 4, bounds.bottom);
      const texts = labels.map((one, i) =>
        svg(
          "text",
          { class: `label s${one.style % 6}`, x: bounds.right + 8, y: heights[i] + 4, "aria-hidden": "true" },
          one.label,
        ),
      );
      const yTicks = logY ? logTicks(ys, 5) : ticks(ys, 4);
      const node = canvas(
        width,
        height,
        name,
        yAxis(y, yTicks.length > 1 ? yTicks : ticks(ys, 3), options.yAxis ?? yFormat, bounds.left, bounds.right),
        xAxis(
          x,
          options.xTicks ?? ticks(xs, Math.max(2, Math.floor((bounds.right - bounds.left) / 70))),
          xFormat,
          bounds.bottom,
          options.xName,
          (bounds.left + bounds.right) / 2,
        ),
        lines,
        texts,
      );
      if (filled.length) hover(node, filled, x, bounds, options);
      return node;
    }, height);
  }

  Object.assign(report, { lineChart });
})();
