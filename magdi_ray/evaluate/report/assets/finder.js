/* Finding a question: by words, by kind, by set; a list in pages. */
(() => {
  const { el, inOrder } = report;
  const { count, many } = report.format;
  const PAGE = 10,
    EXCERPT = 150,
    PAUSE = 120;

  /** Positions that hold all words, lie in the set and are of every chosen kind; and how many there are of each kind. */
  function search(index, { words, set, mask }, kinds) {
    const found = [],
      counts = new Array(kinds).fill(0);
    for (let i = 0; i < index.id.length; i += 1) {
      if (set && index.set[i] !== set) continue;
      if ((index.kinds[i] & mask) !== mask) continue;
      if (!words.every((word) => index.lower[i].includes(word))) continue;
      found.push(i);
      for (let k = 0; k < kinds; k += 1) counts[k] += (index.kinds[i] >> k) & 1;
    }
    return { found, counts };
  }

  /** A text's part around the first word found, the words marked. */
  function excerpt(text, words) {
    const lower = text.toLowerCase(),
      same = lower.length === text.length;
    const first = same ? Math.min(...words.map((word) => lower.indexOf(word)).filter((at) => at >= 0)) : 0;
    const from = Number.isFinite(first) && first > EXCERPT * 0.7 ? first - 40 : 0,
      part = text.slice(from, from + EXCERPT);
    const pieces = [from ? "… " : ""];
    for (let at = 0; at < part.length;) {
      const next = same
        ? words
            .map((word) => [part.toLowerCase().indexOf(word, at), word.length])
            .filter(([where]) => where >= 0)
            .sort((a, b) => a[0] - b[0] || b[1] - a[1])[0]
        : null;
      if (!next) {
        pieces.push(part.slice(at));
        break;
      }
      pieces.push(part.slice(at, next[0]), el("mark", {}, part.slice(next[0], next[0] + next[1])));
      at = next[0] + next[1];
    }
    return [...pieces, from + EXCERPT < text.length ? " …" : ""];
  }

  /** `order` is that of the run's sets; `open(position)` is called when a result is chosen. */
  function finder(viewer, index, order, open) {
    const state = { words: [], set: "", mask: 0, page: 0, found: [], current: -1 };
    const sets = inOrder([...new Set(index.set)], order);
    const status = el("p", { role: "status", class: "sub" }),
      list = el("ul", { class: "results", "aria-label": "Questions found" });
    const chips = viewer.kinds.map((kind, bit) =>
      el(
        "button",
        {
          type: "button",
          class: "chip",
          "aria-pressed": "false",
          title: kind.hint,
          "data-kind": kind.id,
          onclick: () => {
            state.mask ^= 1 << bit;
            update();
          },
        },
        `${kind.title} `,
        el("span", { class: "count" }, count(kind.count)),
      ),
    );
    const input = el("input", {
      type: "search",
      id: "find",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "words of the question, or its id",
    });
    const back = el("button", { type: "button", onclick: () => turn(-1) }, "Previous"),
      forth = el("button", { type: "button", onclick: () => turn(1) }, "Next");
    const where = el("span", { class: "sub" });
    const select = el(
      "select",
      {
        onchange: () => {
          state.set = select.value;
          update();
        },
      },
      el("option", { value: "" }, "all sets"),
      sets.map((set) => el("option", { value: set }, set)),
    );
    const nothing = el(
      "p",
      { class: "note nothing" },
      "Nothing found. ",
      el("button", { type: "button", onclick: () => clear() }, "Clear the filters"),
    );
    let timer = 0;
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        state.words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
        update();
      }, PAUSE);
    });

    function clear() {
      clearTimeout(timer);
      input.value = select.value = "";
      Object.assign(state, { words: [], set: "", mask: 0 });
      update();
      input.focus();
    }

    const pages = () => Math.max(1, Math.ceil(state.found.length / PAGE));

    function turn(by, focus) {
      state.page = Math.min(pages() - 1, Math.max(0, state.page + by));
      show();
      if (focus !== undefined) list.querySelectorAll("button")[focus < 0 ? list.children.length - 1 : 0]?.focus();
    }

    function update() {
      const { found, counts } = search(index, state, viewer.kinds.length);
      Object.assign(state, { found, page: 0 });
      chips.forEach((chip, bit) => {
        const pressed = Boolean(state.mask & (1 << bit));
        chip.setAttribute("aria-pressed", String(pressed));
        chip.disabled = !pressed && !counts[bit];
        chip.lastChild.textContent = count(counts[bit]);
      });
      status.textContent =
        found.length === index.id.length
          ? many(found.length, "question")
          : `${count(found.length)} of ${many(index.id.length, "question")}`;
      show();
    }

    function show() {
      const shown = state.found.slice(state.page * PAGE, (state.page + 1) * PAGE);
      const stop = Math.max(0, shown.indexOf(state.current));
      list.replaceChildren(
        ...shown.map((position, i) =>
          el(
            "li",
            {},
            el(
              "button",
              {
                type: "button",
                class: "result",
                tabindex: i === stop ? 0 : -1,
                "aria-current": position === state.current ? "true" : null,
                "data-position": position,
                onclick: () => open(position),
              },
              el("bdi", { class: "text", dir: "auto" }, excerpt(index.text[position], state.words)),
              el("span", { class: "sub" }, `${index.id[position]} · ${index.set[position]}`),
            ),
          ),
        ),
      );
      nothing.hidden = state.found.length > 0;
      pager.hidden = state.found.length === 0;
      where.textContent = `page ${count(state.page + 1)} of ${count(pages())}`;
      back.disabled = state.page === 0;
      forth.disabled = state.page >= pages() - 1;
    }

    list.addEventListener("keydown", (event) => {
      const buttons = [...list.querySelectorAll("button")],
        at = buttons.indexOf(document.activeElement);
      const target = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (target === undefined && !event.key.startsWith("Page")) return;
      event.preventDefault();
      if (target === undefined) turn(event.key === "PageDown" ? 1 : -1, 0);
      else if (target < 0) {
        if (state.page > 0) turn(-1, -1);
      } else if (target >= buttons.length) {
        if (state.page < pages() - 1) turn(1, 0);
      } else {
        buttons.forEach((button, i) => {
          button.tabIndex = i === target ? 0 : -1;
        });
        buttons[target].focus();
      }
    });

    const pager = el("div", { class: "pager", role: "group", "aria-label": "Pages" }, back, where, forth);
    update();
    const node = el(
      "search",
      { class: "finder" },
      el("label", { for: "find" }, "Find a question"),
      input,
      sets.length > 1 && el("label", { class: "set" }, "in ", select),
      el("div", { class: "chips", role: "group", "aria-label": "Kinds of question" }, chips),
      status,
      list,
      nothing,
      pager,
    );

    /** Mark the question that is open, and turn to its page if it is among those found. */
    function mark(position) {
      state.current = position;
      const at = state.found.indexOf(position);
      if (at >= 0) state.page = Math.floor(at / PAGE);
      show();
    }
    /** The question `by` places further in the list, or null. */
    const beside = (by) => {
      const at = state.found.indexOf(state.current);
      return at < 0 ? null : (state.found[at + by] ?? null);
    };
    const focus = () => (list.querySelector("[aria-current]") ?? input).focus();
    return { node, mark, beside, focus };
  }

  Object.assign(report, { finder });
})();
