/* Figures as people read them. An unknown figure is a dash, never a zero. */
(() => {
  const NONE = "–";
  const known = (value) => typeof value === "number" && Number.isFinite(value);
  const or = (format) => (value) => (known(value) ? format(value) : NONE);
  const grouped = (digits) => new Intl.NumberFormat("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits });
  const whole = grouped(0),
    tenth = grouped(1);

  const count = or((value) => whole.format(value));
  const percent = or((value) => `${(100 * value).toFixed(1)}%`);
  const short = or((value) => `${Math.round(100 * value)}%`);
  const hundred = or((value) => (100 * value).toFixed(1));
  const signed = or((value) => {
    const text = (100 * Math.abs(value)).toFixed(1);
    return text === "0.0" ? "0.0" : (value < 0 ? "−" : "+") + text;
  });
  const tokens = or((value) => (value < 10 ? tenth : whole).format(value));
  const decimal = or((value) => (value === 0 ? "0" : Math.abs(value) < 0.001 ? value.toExponential(1) : value.toPrecision(3)));
  /** A figure at an axis: no more digits than it needs. */
  const plain = or((value) => String(Number(value.toPrecision(6))));
  const usd = or((value) => `$${value === 0 || value >= 1 ? value.toFixed(2) : value.toPrecision(2)}`);
  const chance = or((value) => (value < 0.001 ? "< 0.001" : value.toFixed(3)));
  const seconds = or((value) => {
    if (value < 1) return `${Math.round(1000 * value)} ms`;
    if (value < 120) return `${value.toFixed(1)} s`;
    const minutes = Math.round(value / 60);
    return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  });
  const interval = (low, high, format = hundred) => (known(low) && known(high) ? `${format(low)} to ${format(high)}` : NONE);
  const many = (value, one, several = `${one}s`) => `${count(value)} ${value === 1 ? one : several}`;

  /** "majority of 8" and the like; empty for a single reply. */
  const method = (row) => (row.samples > 1 ? `${row.method} of ${row.samples}` : row.method === "single" ? "" : row.method);

  /** A system as a table calls it. */
  const title = (run, id) => run.systems?.find((system) => system.id === id)?.title ?? id;
  /** A system where there is little room: its title only where that is short and says more than its name. */
  const brief = (run, id) => {
    const text = title(run, id);
    return text.length <= 18 && !text.startsWith(id) ? text : id;
  };
  const kind = (run, id) => run.systems?.find((system) => system.id === id)?.kind ?? "engine";

  /** Wilson's 95% interval, for shares that come with a count only. */
  function wilson(share, n) {
    const z = 1.96,
      centre = (share + (z * z) / (2 * n)) / (1 + (z * z) / n);
    const half = (z / (1 + (z * z) / n)) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
    return [Math.max(0, centre - half), Math.min(1, centre + half)];
  }

  report.format = {
    NONE,
    known,
    count,
    percent,
    short,
    hundred,
    signed,
    tokens,
    decimal,
    plain,
    usd,
    chance,
    seconds,
    interval,
    many,
    method,
    title,
    brief,
    kind,
    wilson,
  };
})();
