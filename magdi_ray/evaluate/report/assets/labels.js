/* Labels beside their points, so that none covers another, a point or an edge. */
(() => {
  const pen = document.createElement("canvas").getContext("2d");

  /** Width of a text in the page's small type. */
  function textWidth(text, font = "600 13px") {
    pen.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
    return pen.measureText(text).width;
  }

  const overlap = (a, b) =>
    Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
    Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));

  /** Where a label of this size may stand: near first, then further away with a leader line. */
  function candidates({ x, y, width, height, reach = 11 }) {
    const found = [];
    for (const far of [0, 14, 28, 44, 62, 82, 104]) {
      for (const [dx, dy] of [
        [1, 0],
        [-1, 0],
        [1, -1],
        [1, 1],
        [-1, -1],
        [-1, 1],
        [0, -1],
        [0, 1],
      ]) {
        if (far && !dy) continue;
        const side = dx ? reach : 0;
        const left = dx > 0 ? x + side : dx < 0 ? x - side - width : x - width / 2;
        const middle = y + dy * (far + (dx ? 9 : 18));
        found.push({
          left,
          right: left + width,
          anchor: dx < 0 ? "end" : "start",
          top: middle - height / 2,
          bottom: middle + height / 2,
          far: far + (dx ? 0 : 6) + (dx < 0 ? 1 : 0) + (dy ? 3 : 0),
        });
      }
    }
    return found;
  }

  /** Boxes for `items` ({x, y, text}) within `bounds`; `obstacles` are boxes that are better left free. */
  function place(items, obstacles, bounds) {
    const wanted = items.map((item) => ({ ...item, width: textWidth(item.text) + 4, height: 16 }));
    const boxes = wanted.map(() => null);
    const cost = (box, mine) => {
      let total = box.far * 2;
      const out =
        Math.max(0, bounds.left - box.left) +
        Math.max(0, box.right - bounds.right) +
        Math.max(0, bounds.top - box.top) +
        Math.max(0, box.bottom - bounds.bottom);
      total += out * 200;
      boxes.forEach((other, i) => {
        if (other && i !== mine) total += overlap(box, other) * 60;
      });
      for (const obstacle of obstacles) total += overlap(box, obstacle) * (obstacle.weight ?? 1);
      return total;
    };
    for (let pass = 0; pass < 4; pass += 1) {
      wanted.forEach((item, i) => {
        boxes[i] = candidates(item)
          .map((box) => [cost(box, i), box])
          .reduce((best, next) => (next[0] < best[0] ? next : best))[1];
      });
    }
    return boxes;
  }

  /** Heights at least `gap` apart, as near as may be to the wanted ones, within [top, bottom]. */
  function spread(wanted, gap, top, bottom) {
    const order = wanted.map((y, i) => [y, i]).sort((a, b) => a[0] - b[0]);
    const placed = [];
    order.forEach(([y], k) => {
      placed[k] = Math.max(y, k ? placed[k - 1] + gap : top);
    });
    for (let k = placed.length - 1, limit = bottom; k >= 0; k -= 1, limit = placed[k + 1] - gap)
      placed[k] = Math.min(placed[k], limit);
    const result = [];
    order.forEach(([, i], k) => {
      result[i] = placed[k];
    });
    return result;
  }

  Object.assign(report, { textWidth, place, spread });
})();
