/* Map */

function plane(map) {
  const svg = find("plane"), tip = find("tip"), size = 640, margin = 24, closest = 24;
  const view = { x: 0, y: 0, width: size };
  const across = (i) => margin + map.x[i] * (size - 2 * margin);
  const down = (i) => margin + (1 - map.y[i]) * (size - 2 * margin);
  const style = (kind) => ({ color: PALETTE[kind % PALETTE.length], mark: MARKS[Math.floor(kind / PALETTE.length) % MARKS.length] });
  const lines = draw("g", { class: "lines" });
  const marks = map.ids.map((id, i) => {
    const { color, mark } = style(map.kinds[i]);
    const path = draw("path", { d: mark, fill: color });
    if (map.wrong[i]) path.classList.add("wrong");
    path.addEventListener("pointerenter", () => point(i));
    path.addEventListener("click", () => moved || choose(i));
    return path;
  });
  svg.append(lines, ...marks);
  const viewer = new Viewer(tip.querySelector("canvas"), { points: "", layers: {} });
  tip.querySelector("canvas").setAttribute("aria-hidden", "true");
  let at = -1, chosen = null, held = null, moved = false, near = [];

  const thumbnail = (i) => ({ points: map.thumbnails[i], normals: "", layers: {} });
  const told = (i) => `${map.names[map.kinds[i]]}${map.wrong[i] ? " (wrong)" : ""}, ${map.ids[i]}`;

  // Shows a part of the plane; marks keep their size.
  function look(x, y, width) {
    view.width = Math.max(closest, Math.min(size, width));
    view.x = Math.max(0, Math.min(size - view.width, x));
    view.y = Math.max(0, Math.min(size - view.width, y));
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.width}`);
    const scale = view.width / size;
    marks.forEach((path, i) => path.setAttribute(
      "transform", `translate(${across(i).toFixed(2)},${down(i).toFixed(2)}) scale(${scale.toFixed(4)})`,
    ));
    lines.setAttribute("stroke-width", 1.5 * scale);
    tip.hidden = true;
  }
  // About a place, given as shares of what is seen.
  function zoom(factor, x = 0.5, y = 0.5) {
    const width = Math.max(closest, Math.min(size, view.width / factor));
    look(view.x + x * (view.width - width), view.y + y * (view.width - width), width);
  }
  const reset = () => look(0, 0, size);

  function point(i) {
    at = i;
    tip.hidden = false;
    viewer.shape = thumbnail(i);
    Object.assign(viewer, { unpacked: null, colors: null, dirty: true });
    viewer.paint();
    tip.querySelector("p").textContent = told(i);
    const scale = svg.clientWidth / view.width;
    const x = (across(i) - view.x) * scale, y = (down(i) - view.y) * scale;
    tip.style.left = `${Math.max(0, Math.min(svg.clientWidth - 134, x + (x > svg.clientWidth / 2 ? -144 : 12)))}px`;
    tip.style.top = `${Math.max(0, Math.min(svg.clientHeight - 170, y - 60))}px`;
  }

  // A shape and those whose features are nearest, with lines to them.
  function choose(i) {
    for (const old of near) old.drop();
    near = [];
    const cards = [i, ...map.neighbors[i]].map((k, place) => {
      const canvas = make("canvas", { tabindex: 0, role: "img", "aria-label": `${told(k)}. Arrow keys turn the shape.`, "data-pixels": 240 });
      const caption = make("figcaption", {}, make("b", {}, place ? `${place}. ${map.names[map.kinds[k]]}` : `chosen: ${map.names[map.kinds[k]]}`), make("br"), map.ids[k]);
      near.push(new Viewer(canvas, thumbnail(k)));
      return make("figure", place ? {} : { class: "chosen" }, canvas, caption);
    });
    find("near").replaceChildren(...cards);
    find("near-hint").hidden = true;
    lines.replaceChildren(...map.neighbors[i].map((k) => draw("line", { x1: across(i), y1: down(i), x2: across(k), y2: down(k) })));
    marks.forEach((path, k) => path.classList.toggle("near", k === i || map.neighbors[i].includes(k)));
  }

  svg.addEventListener("pointerleave", () => (tip.hidden = true));
  svg.addEventListener("blur", () => (tip.hidden = true));
  svg.addEventListener("wheel", (event) => {
    if (!takesWheel(svg, event)) return;
    event.preventDefault();
    const box = svg.getBoundingClientRect();
    zoom(wheelFactor(event), (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }, { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    held = { x: event.clientX, y: event.clientY, from: { ...view } };
    moved = false;
  });
  svg.addEventListener("pointermove", (event) => {
    if (!held || view.width === size || !event.buttons) return;
    moved = moved || Math.hypot(event.clientX - held.x, event.clientY - held.y) > 4;
    const unit = view.width / svg.clientWidth;
    look(held.from.x - (event.clientX - held.x) * unit, held.from.y - (event.clientY - held.y) * unit, view.width);
  });
  svg.addEventListener("pointerup", () => (held = null));
  svg.addEventListener("dblclick", reset);
  svg.addEventListener("keydown", (event) => {
    const actions = { "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), Home: reset, Enter: () => at >= 0 && choose(at) };
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (event.key === "Escape") tip.hidden = true;
    if (event.ctrlKey || event.metaKey || event.altKey || (!way && !actions[event.key])) return;
    event.preventDefault();
    if (!way) actions[event.key]();
    else go(way);
  });

  function go(way) {
    let best = at < 0 ? 0 : -1, least = Infinity;
    for (let i = 0; at >= 0 && i < map.ids.length; i++) {
      const x = map.x[i] - map.x[at], y = map.y[i] - map.y[at];
      const along = x * way[0] + y * way[1], aside = Math.abs(x * way[1]) + Math.abs(y * way[0]);
      if (along > 1e-6 && (chosen === null || map.kinds[i] === chosen) && along + 2 * aside < least) {
        best = i;
        least = along + 2 * aside;
      }
    }
    if (best < 0) return;
    const [x, y] = [across(best), down(best)];
    const isSeen = x >= view.x && x <= view.x + view.width && y >= view.y && y <= view.y + view.width;
    if (!isSeen) look(x - view.width / 2, y - view.width / 2, view.width);
    point(best);
  }

  find("zoom-in").addEventListener("click", () => zoom(1.5));
  find("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  find("zoom-all").addEventListener("click", reset);
  find("plane-tools").append(saveButton("the map", () => saveDrawing(svg, "map")));

  const buttons = map.names.map((name, kind) => {
    const { color, mark } = style(kind);
    const icon = draw("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" });
    icon.append(draw("path", { d: mark, fill: color }));
    const n = map.kinds.filter((k) => k === kind).length;
    const button = make("button", { type: "button", "aria-pressed": "false" }, icon, name, make("small", {}, String(n)));
    button.addEventListener("click", () => {
      chosen = chosen === kind ? null : kind;
      buttons.forEach((other, k) => other.setAttribute("aria-pressed", String(k === chosen)));
      marks.forEach((path, i) => path.classList.toggle("off", chosen !== null && map.kinds[i] !== chosen));
    });
    return button;
  });
  find("kinds").append(...buttons.map((button) => make("li", {}, button)));
  reset();
}
