/* The page, top to bottom. */
(() => {
  const { el, headline, about, section, problem, sections } = report;
  const THEMES = { "": "Theme: system", light: "Theme: light", dark: "Theme: dark" };

  function themes() {
    const button = document.getElementById("theme"),
      names = Object.keys(THEMES),
      stored = (() => {
        try {
          return localStorage.getItem("magdi-theme") ?? "";
        } catch {
          return "";
        }
      })();
    const apply = (name) => {
      if (name) document.documentElement.dataset.theme = name;
      else delete document.documentElement.dataset.theme;
      button.textContent = THEMES[name] ?? THEMES[""];
    };
    let current = names.includes(stored) ? stored : "";
    apply(current);
    button.addEventListener("click", () => {
      current = names[(names.indexOf(current) + 1) % names.length];
      apply(current);
      try {
        localStorage.setItem("magdi-theme", current);
      } catch {
        /* a page opened from a file may have no storage: the choice lasts as long as the page */
      }
    });
  }

  /** The link of the section that is being read stands out. */
  function follow(nav, built) {
    const links = new Map(built.map(({ id }) => [id, nav.querySelector(`a[href="#${id}"]`)]));
    const seen = new Set();
    const observer = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) entry.isIntersecting ? seen.add(entry.target.id) : seen.delete(entry.target.id);
        const first = built.find(({ id }) => seen.has(id))?.id;
        links.forEach((link, id) =>
          id === first ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"),
        );
      },
      { rootMargin: "-20% 0px -70% 0px" },
    );
    for (const { node } of built) observer.observe(node);
  }

  const LISTS = [
    "facts",
    "sets",
    "systems",
    "scores",
    "differences",
    "orderings",
    "curves",
    "rounds",
    "influence",
    "calibration",
    "labelling",
    "cost",
  ];

  /** The figures, with an empty list for whatever a run does not have, and sets in domain before those out of it. */
  function read() {
    const data = JSON.parse(document.getElementById("data").textContent);
    const order = (sets) => [...sets].sort((a, b) => Number(a.domain === "out") - Number(b.domain === "out"));
    const whole = (run) => {
      const lists = Object.fromEntries(LISTS.map((name) => [name, run[name] ?? []]));
      return { ...run, ...lists, sets: order(lists.sets) };
    };
    return { ...data, runs: data.runs.map(whole) };
  }

  /** A section, or what went wrong with it: the others are shown all the same. */
  function build(one, data) {
    try {
      return one.build(data);
    } catch (error) {
      console.error(error);
      return section(one.id, one.title, null, problem(error));
    }
  }

  function start() {
    const data = read(),
      main = document.getElementById("main"),
      nav = document.getElementById("nav");
    const built = sections.map((one) => ({ ...one, node: build(one, data) }));
    const present = built.filter((one) => one.node),
      missing = built.filter((one) => !one.node);
    main.replaceChildren(headline(data), ...present.map((one) => one.node), about(data));
    nav.append(
      el(
        "ul",
        {},
        [...present, { id: "about", title: "About" }].map((one) => el("li", {}, el("a", { href: `#${one.id}` }, one.title))),
      ),
    );
    if (missing.length)
      document
        .getElementById("about")
        .append(el("p", { class: "note" }, `Not in this report: ${missing.map((one) => one.without).join("; ")}.`));
    document.getElementById("foot").append(`Written by magdi_ray ${data.version}, ${data.made}.`);
    follow(nav, present);
  }

  themes();
  start();
})();
