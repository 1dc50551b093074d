/* Tables that scroll inside themselves where they are wider than the page. */
(() => {
  const { el } = report;

  /** Columns are {name, value(row), hint, number, head, only}; `only` is a class of the column's cells. */
  function table(caption, columns, rows, { shown = true, rowClass = () => null, slim = false } = {}) {
    const align = (column) => [column.number && "number", column.only].filter(Boolean).join(" ") || null;
    const head = el(
      "tr",
      {},
      columns.map((column) => el("th", { scope: "col", class: align(column), title: column.hint }, column.name)),
    );
    const body = rows.map((row) =>
      el(
        "tr",
        { class: rowClass(row) },
        columns.map((column) =>
          el(column.head ? "th" : "td", { scope: column.head && "row", class: align(column) }, column.value(row)),
        ),
      ),
    );
    const made = el(
      "table",
      { class: slim && "slim" },
      el("caption", { class: shown ? null : "quiet" }, el("span", {}, caption)),
      el("thead", {}, head),
      el("tbody", {}, body),
    );
    return scroller(caption, made);
  }

  function scroller(name, child) {
    const holder = el("div", { class: "scroll" }, child);
    /** A side behind which there is more fades out. */
    const fade = () => {
      const left = holder.scrollLeft,
        rest = holder.scrollWidth - holder.clientWidth - left;
      holder.classList.toggle("before", left > 1);
      holder.classList.toggle("beyond", rest > 1);
    };
    holder.addEventListener("scroll", fade, { passive: true });
    const fit = () => {
      fade();
      const wide = holder.scrollWidth > holder.clientWidth + 1;
      if (wide === holder.hasAttribute("tabindex")) return;
      for (const [key, value] of [
        ["tabindex", "0"],
        ["role", "region"],
        ["aria-label", name],
      ])
        wide ? holder.setAttribute(key, value) : holder.removeAttribute(key);
    };
    new ResizeObserver(() => requestAnimationFrame(fit)).observe(holder);
    return holder;
  }

  Object.assign(report, { table, scroller });
})();
