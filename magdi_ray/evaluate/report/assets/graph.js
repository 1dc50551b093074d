/* One debate as its graph: a lane an agent, a step a round; an arrow from every reply to those who were shown it. */
(() => {
  const { el, svg } = report;
  const { short, known, count, many } = report.format;
  const ACROSS = 620;

  const STATES = { right: "right", wrong: "wrong", unlabelled: "not labelled", unparsed: "no answer" };
  const stateOf = (node) =>
    node.status !== "ok" ? "unparsed" : node.correct === true ? "right" : node.correct === false ? "wrong" : "unlabelled";
  const stateText = (node) => (node.status !== "ok" && node.status !== "unparsed" ? node.status : STATES[stateOf(node)]);

  const SIGNS = {
    right: [
      ["circle", { cx: 9, cy: 9, r: 8, class: "ground" }],
      ["path", { d: "M5,9.4l2.8,2.8L13,6.4", class: "stroke" }],
    ],
    wrong: [
      ["rect", { x: 1.5, y: 1.5, width: 15, height: 15, rx: 1.5, class: "ground" }],
      ["path", { d: "M5.4,5.4l7.2,7.2M12.6,5.4l-7.2,7.2", class: "stroke" }],
    ],
    unlabelled: [
      ["circle", { cx: 9, cy: 9, r: 7, class: "hollow" }],
      ["circle", { cx: 9, cy: 9, r: 2, class: "ground" }],
    ],
    unparsed: [
      ["path", { d: "M9,1.5L17,16H1Z", class: "hollow" }],
      ["path", { d: "M9,6.5v4.5M9,13v1", class: "stroke plainly" }],
    ],
  };
  /** The sign of right, wrong, unlabelled or unparsed; `said` is its text for those who do not see it. */
  const sign = (state, said = null) =>
    svg(
      "svg",
      {
        class: `sign ${state}`,
        width: 18,
        height: 18,
        viewBox: "0 0 18 18",
        role: said && "img",
        "aria-label": said,
        "aria-hidden": said ? null : "true",
      },
      SIGNS[state].map(([name, attributes]) => svg(name, attributes)),
    );

  const EDGES = { self: "its own reply", peer: "another's reply", critique: "a critique" };
  const nameOf = (node) => `${node.agent}, round ${node.round}${node.role && node.role !== "debater" ? `, ${node.role}` : ""}`;
  const told = (node) =>
    [
      nameOf(node),
      node.answer === null ? null : `answer ${node.answer}`,
      stateText(node),
      known(node.confidence) ? `confidence ${short(node.confidence)}` : null,
    ]
      .filter(Boolean)
      .join(", ");

  function legend(debate) {
    const states = Object.keys(STATES).filter((state) => debate.nodes.some((node) => stateOf(node) === state));
    const types = Object.keys(EDGES).filter((type) => debate.edges.some((edge) => edge.type === type));
    return el(
      "ul",
      { class: "legend" },
      states.map((state) => el("li", {}, sign(state), ` ${STATES[state]}`)),
      types.map((type) =>
        el(
          "li",
          {},
          svg(
            "svg",
            { width: 34, height: 12, "aria-hidden": "true" },
            svg("path", { class: `edge ${type}`, d: "M1,6H27" }),
            svg("path", { class: `head ${type}`, d: "M33,6l-7,-4v8z" }),
          ),
          ` shown ${EDGES[type]}`,
        ),
      ),
    );
  }

  /** The way of an arrow between two boxes, and its head. */
  function arrow(a, b, across, shift) {
    const along = across ? b.left - a.right : b.top - a.bottom;
    if (along < 0) {
      const x = Math.max(a.right, b.right),
        y1 = a.top + a.height / 2,
        y2 = b.top + b.height / 2;
      return { d: `M${a.right},${y1}C${x + 30},${y1} ${x + 30},${y2} ${b.right + 6},${y2}`, head: `M${b.right},${y2}l7,-4v8z` };
    }
    if (across) {
      const y1 = a.top + a.height / 2,
        y2 = b.top + b.height / 2 + shift,
        half = along / 2;
      return {
        d: `M${a.right},${y1}C${a.right + half},${y1} ${b.left - half},${y2} ${b.left - 6},${y2}`,
        head: `M${b.left},${y2}l-7,-4v8z`,
      };
    }
    const x1 = a.left + a.width / 2,
      x2 = b.left + b.width / 2 + shift,
      half = along / 2;
    return {
      d: `M${x1},${a.bottom}C${x1},${a.bottom + half} ${x2},${b.top - half} ${x2},${b.top - 6}`,
      head: `M${x2},${b.top}l-4,-7h8z`,
    };
  }

  function button(node, i, choose) {
    const facts = [known(node.confidence) && short(node.confidence), known(node.tokens_out) && `${count(node.tokens_out)} tok`]
      .filter(Boolean)
      .join(" · ");
    return el(
      "button",
      {
        type: "button",
        class: `node ${stateOf(node)}`,
        "aria-label": told(node),
        "aria-pressed": "false",
        "data-node": i,
        onclick: () => choose(i),
      },
      sign(stateOf(node)),
      el("bdi", { class: "answer", dir: "auto" }, node.answer ?? "none"),
      el("span", { class: "facts-line" }, node.role && node.role !== "debater" ? `${node.role} · ${facts}` : facts),
    );
  }

  /** The button that lies nearest in the direction of an arrow key. */
  function towards(buttons, from, key) {
    const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key];
    const middle = (node) => {
      const box = node.getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2];
    };
    const [x, y] = middle(from);
    const ranked = buttons.map((node) => {
      const [a, b] = middle(node);
      const ahead = (a - x) * dx + (b - y) * dy;
      return [ahead, ahead + 3 * Math.abs((a - x) * dy + (b - y) * dx), node];
    });
    return ranked.filter(([ahead]) => ahead > 4).sort((a, b) => a[1] - b[1])[0]?.[2];
  }

  /** `choose(i)` is called when a node is chosen; `select(i)` shows one as chosen, null none. */
  function graph(debate, choose) {
    const rounds = [...new Set(debate.nodes.map((node) => node.round))].sort((a, b) => a - b);
    const agents = [...new Set([...debate.agents, ...debate.nodes.map((node) => node.agent)])].filter((agent) =>
      debate.nodes.some((node) => node.agent === agent),
    );
    const buttons = debate.nodes.map((node, i) => button(node, i, choose));
    const lines = svg("svg", { class: "edges", "aria-hidden": "true" });
    const board = el("div", {
      class: "board",
      role: "group",
      "aria-label": `Graph of the debate: ${many(debate.nodes.length, "reply", "replies")}, ${many(rounds.length, "round")}`,
    });
    const cells = agents.map((agent) =>
      rounds.map((round) =>
        el(
          "div",
          { class: "cell" },
          buttons.filter((_, i) => debate.nodes[i].agent === agent && debate.nodes[i].round === round),
        ),
      ),
    );
    let chosen = null,
      width = 0;

    function lay() {
      const across = width >= ACROSS,
        corner = el("span", { "aria-hidden": "true" });
      const roundNames = rounds.map((round) => el("span", { class: "lane" }, `round ${round}`)),
        agentNames = agents.map((agent) => el("bdi", { class: "lane", title: agent }, agent));
      const rows = across
        ? [[corner, ...roundNames], ...agents.map((_, a) => [agentNames[a], ...cells[a]])]
        : [[corner, ...agentNames], ...rounds.map((_, r) => [roundNames[r], ...cells.map((cell) => cell[r])])];
      board.classList.toggle("across", across);
      board.style.gridTemplateColumns = across
        ? `minmax(3.5rem, max-content) repeat(${rounds.length}, minmax(0, 15rem))`
        : `2.6rem repeat(${agents.length}, minmax(0, 1fr))`;
      board.replaceChildren(lines, ...rows.flat());
      draw(across);
    }

    function draw(across) {
      const origin = board.getBoundingClientRect();
      lines.setAttribute("width", origin.width);
      lines.setAttribute("height", origin.height);
      const boxes = buttons.map((node) => {
        const box = node.getBoundingClientRect();
        return {
          left: box.left - origin.left,
          right: box.right - origin.left,
          top: box.top - origin.top,
          bottom: box.bottom - origin.top,
          width: box.width,
          height: box.height,
        };
      });
      const into = debate.nodes.map((_, i) =>
        debate.edges.filter((edge) => edge.target === i).sort((a, b) => a.source - b.source),
      );
      const drawn = debate.edges.map((edge) => {
        const siblings = into[edge.target],
          spacing = Math.min(9, (across ? boxes[edge.target].height : boxes[edge.target].width) / (siblings.length + 1));
        const { d, head } = arrow(
          boxes[edge.source],
          boxes[edge.target],
          across,
          (siblings.indexOf(edge) - (siblings.length - 1) / 2) * spacing,
        );
        const of = chosen === null ? "" : edge.source === chosen || edge.target === chosen ? " on" : " dim";
        return [
          of,
          svg(
            "g",
            { class: `arrow ${edge.type}${of}` },
            svg("path", { class: `edge ${edge.type}`, d }),
            svg("path", { class: `head ${edge.type}`, d: head }),
          ),
        ];
      });
      lines.replaceChildren(...drawn.sort((a, b) => (a[0] === " on") - (b[0] === " on")).map(([, node]) => node));
    }

    function select(i) {
      chosen = i;
      const near = new Set(
        debate.edges.filter((edge) => edge.source === i || edge.target === i).flatMap((edge) => [edge.source, edge.target]),
      );
      buttons.forEach((node, k) => {
        node.setAttribute("aria-pressed", String(k === i));
        node.classList.toggle("near", near.has(k) && k !== i);
        node.tabIndex = k === (i ?? 0) ? 0 : -1;
      });
      if (width) draw(width >= ACROSS);
    }

    board.addEventListener("keydown", (event) => {
      if (!event.key.startsWith("Arrow") || !buttons.includes(event.target)) return;
      event.preventDefault();
      const next = towards(buttons, event.target, event.key);
      if (!next) return;
      buttons.forEach((node) => {
        node.tabIndex = node === next ? 0 : -1;
      });
      next.focus();
    });
    new ResizeObserver(() =>
      requestAnimationFrame(() => {
        if (board.clientWidth && board.clientWidth !== width) {
          width = board.clientWidth;
          lay();
        }
      }),
    ).observe(board);
    select(null);
    return { node: el("div", { class: "graph" }, board, legend(debate)), select, focus: (i) => buttons[i]?.focus() };
  }

  Object.assign(report, { graph, sign, stateOf, stateText, nameOf });
})();
