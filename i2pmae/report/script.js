"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const find = (id) => document.getElementById(id);
  const root = document.documentElement;

  // Okabe and Ito's colors, in the order in which categories take them.
  const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a90f", "#7d848d"];
  const MARKS = [
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M-3.6,-3.6h7.2v7.2h-7.2z",
    "M0,-4.8L4.6,3.4h-9.2z",
    "M0,-5.2L5.2,0L0,5.2L-5.2,0z",
  ];
  const FIRST = 18; // shapes in the gallery before more are asked for
  const START = { yaw: 0.61, pitch: 0.38, zoom: 1 };
  const LIGHT = [-0.42, 0.72, 0.55]; // where light comes from: right, up, towards the viewer
  const RELIEF = { plain: 1, scale: 0.35, colors: 0.35, kinds: 0.5 };

  const isDark = () => root.classList.contains("dark");
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const draw = (tag, attributes = {}, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  };

  // Numbers in as few digits as tell them apart.
  const short = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
    return String(Number(value.toPrecision(size >= 1000 ? 4 : 3)));
  };

  /* Points that turn */

  const viewers = new Set();
  let together = false;

  function unpack(shape) {
    const raw = bytes(shape.points);
    const steps = new Int16Array(raw.buffer);
    const points = Float32Array.from(steps, (step) => step / 32767);
    const normals = shape.normals
      ? Float32Array.from(new Int8Array(bytes(shape.normals).buffer), (step) => step / 127)
      : null;
    return { points, normals };
  }

  function pointColors(shape, layer, n) {
    const colors = new Uint8Array(3 * n);
    const packed = layer && shape.layers && shape.layers[layer.key];
    if (!packed) {
      const plain = rgb(css("--neutral"));
      for (let i = 0; i < 3 * n; i++) colors[i] = plain[i % 3];
      return colors;
    }
    const values = bytes(packed);
    if (layer.kind === "colors") return values;
    const table = layer.kind === "scale"
      ? bytes(content.ramps[isDark() ? "dark" : "light"])
      : Uint8Array.from(kindColors(layer).flatMap(rgb));
    const size = table.length / 3;
    for (let i = 0; i < n; i++) {
      const at = 3 * (layer.kind === "scale" ? values[i] : values[i] % size);
      colors.set(table.subarray(at, at + 3), 3 * i);
    }
    return colors;
  }

  const kindColors = (layer) => {
    if (layer.kinds.length !== 2) return PALETTE;
    return layer.kinds[0] === "right" ? [css("--neutral"), css("--orange")] : [css("--blue"), css("--orange")];
  };

  class Viewer {
    constructor(canvas, shape, layer = null) {
      Object.assign(this, START, { canvas, shape, layer, dirty: true, seen: false });
      const wish = Number(canvas.dataset.pixels) || 440;
      canvas.width = canvas.height = wish;
      canvas.viewer = this;
      viewers.add(this);
      this.listen();
      watch.observe(canvas);
    }

    listen() {
      const canvas = this.canvas;
      let last = null;
      canvas.addEventListener("pointerdown", (event) => {
        last = [event.clientX, event.clientY];
        canvas.setPointerCapture(event.pointerId);
      });
      canvas.addEventListener("pointermove", (event) => {
        if (!last) return;
        const unit = Math.PI / canvas.clientWidth;
        this.turn((event.clientX - last[0]) * unit, (event.clientY - last[1]) * unit);
        last = [event.clientX, event.clientY];
      });
      for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
      canvas.addEventListener("dblclick", () => this.reset());
      canvas.addEventListener("keydown", (event) => {
        const step = 0.15;
        const actions = {
          ArrowLeft: () => this.turn(-step, 0),
          ArrowRight: () => this.turn(step, 0),
          ArrowUp: () => this.turn(0, -step),
          ArrowDown: () => this.turn(0, step),
          "+": () => this.scale(1.15),
          "=": () => this.scale(1.15),
          "-": () => this.scale(1 / 1.15),
          Home: () => this.reset(),
        };
        const action = actions[event.key];
        if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        action();
      });
    }

    turn(yaw, pitch) {
      this.set(this.yaw - yaw, Math.max(-1.5, Math.min(1.5, this.pitch + pitch)), this.zoom);
    }
    scale(factor) { this.set(this.yaw, this.pitch, Math.max(0.5, Math.min(4, this.zoom * factor))); }
    reset() { this.set(START.yaw, START.pitch, START.zoom); }

    set(yaw, pitch, zoom) {
      const moved = together ? viewers : [this];
      for (const viewer of moved) {
        Object.assign(viewer, { yaw, pitch, zoom });
        viewer.soon();
      }
    }

    show(layer) {
      this.layer = layer;
      this.colors = null;
      this.soon();
    }

    soon() {
      this.dirty = true;
      if (this.seen && !this.asked) {
        this.asked = true;
        requestAnimationFrame(() => { this.asked = false; this.paint(); });
      }
    }

    paint() {
      if (!this.dirty) return;
      this.dirty = false;
      if (!this.unpacked) this.unpacked = unpack(this.shape);
      const { points, normals } = this.unpacked;
      const n = points.length / 3;
      if (!this.colors) this.colors = pointColors(this.shape, this.layer, n);
      const colors = this.colors;
      const size = this.canvas.width;
      const context = this.canvas.getContext("2d");
      const image = context.createImageData(size, size);
      const pixels = new Uint32Array(image.data.buffer);
      const relief = this.layer ? RELIEF[this.layer.kind] : 1;
      const ground = rgb(css("--panel"));
      const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
      const look = (x, y, z) => {
        const front = x * sy + z * cy;
        return [x * cy - z * sy, y * cp - front * sp, y * sp + front * cp];
      };
      const seen = new Float32Array(3 * n);
      const order = new Uint32Array(n);
      let far = Infinity, near = -Infinity;
      for (let i = 0; i < n; i++) {
        const at = look(points[3 * i], points[3 * i + 1], points[3 * i + 2]);
        seen.set(at, 3 * i);
        order[i] = i;
        far = Math.min(far, at[2]);
        near = Math.max(near, at[2]);
      }
      order.sort((a, b) => seen[3 * a + 2] - seen[3 * b + 2]);
      const unit = 0.47 * size * this.zoom;
      const radius = this.zoom * size * 0.0155 * Math.max(0.3, Math.min(2.2, Math.sqrt(1024 / n)));
      const reach = Math.ceil(radius);
      const half = [];
      for (let dy = -reach; dy <= reach; dy++) {
        half.push(Math.abs(dy) > radius ? -1 : Math.floor(Math.sqrt(radius * radius - dy * dy)));
      }
      for (const i of order) {
        let light = 1;
        if (normals) {
          const normal = look(normals[3 * i], normals[3 * i + 1], normals[3 * i + 2]);
          const side = normal[2] < 0 ? -1 : 1;
          light = Math.max(0, Math.min(1, side * (normal[0] * LIGHT[0] + normal[1] * LIGHT[1] + normal[2] * LIGHT[2])));
        }
        const shade = 1 - 0.4 * relief * (1 - light);
        const fade = 0.5 * relief * (near - seen[3 * i + 2]) / Math.max(near - far, 1e-6);
        let color = 0xff000000;
        for (let k = 0; k < 3; k++) {
          const value = colors[3 * i + k] * shade;
          color |= Math.round(value + (ground[k] - value) * fade) << (8 * k);
        }
        const x = Math.round(size / 2 + unit * seen[3 * i]);
        const y = Math.round(size / 2 - unit * seen[3 * i + 1]);
        for (let dy = -reach; dy <= reach; dy++) {
          const row = y + dy, width = half[dy + reach];
          if (row < 0 || row >= size || width < 0) continue;
          const from = Math.max(0, x - width), to = Math.min(size - 1, x + width);
          if (from <= to) pixels.fill(color >>> 0, row * size + from, row * size + to + 1);
        }
      }
      context.putImageData(image, 0, 0);
    }
  }

  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const viewer = entry.target.viewer;
      viewer.seen = entry.isIntersecting;
      if (viewer.seen) viewer.paint();
    }
  }, { rootMargin: "200px" });

  /* Light and dark */

  const theme = find("theme");
  const remember = (value) => { try { localStorage.setItem("i2pmae-theme", value); } catch { /* not allowed from a file */ } };
  const remembered = () => { try { return localStorage.getItem("i2pmae-theme"); } catch { return null; } };
  function setTheme(dark) {
    root.classList.toggle("dark", dark);
    root.style.colorScheme = dark ? "dark" : "light";
    theme.textContent = dark ? "Light" : "Dark";
    theme.setAttribute("aria-pressed", String(dark));
    theme.setAttribute("aria-label", `Switch to ${dark ? "light" : "dark"} colors`);
    for (const viewer of viewers) viewer.show(viewer.layer);
    if (find("legend")) showLegend();
  }
  theme.addEventListener("click", () => {
    setTheme(!isDark());
    remember(isDark() ? "dark" : "light");
  });

  /* Curves */

  function ticks(low, high, isLog) {
    if (isLog) {
      const found = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
        for (const m of [1, 2, 5]) found.push(m * 10 ** e);
      }
      const inside = found.filter((t) => t >= low * 0.999 && t <= high * 1.001);
      const decades = inside.filter((t) => Math.abs(Math.log10(t) % 1) < 1e-9);
      return decades.length >= 3 ? decades : inside;
    }
    const rough = (high - low) / 4 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((s) => s * power >= rough) * power;
    const found = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) found.push(t);
    return found;
  }

  function curve(chart) {
    const [width, height, left, right, top, bottom] = [360, 200, 48, 10, 10, 24];
    const all = chart.series.flatMap((s) => s.y), xs = chart.series.flatMap((s) => s.x);
    let low = Math.min(...all), high = Math.max(...all);
    const isLog = low > 0 && high / low > 30;
    if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
    const first = Math.min(...xs), last = Math.max(...xs);
    const across = (x) => left + (last === first ? 0.5 : (x - first) / (last - first)) * (width - left - right);
    const scale = isLog ? Math.log : (value) => value;
    const upward = (y) => top + (1 - (scale(y) - scale(low)) / (scale(high) - scale(low))) * (height - top - bottom);
    const value = make("output");
    const unit = chart.unit ? ` ${chart.unit}` : "";
    const box = make("div", { class: "chart" }, make("h3", {}, chart.title + (isLog ? " (log)" : ""), value));
    const final = chart.series.map((s) => `${s.name ? `${s.name} ` : ""}${short(s.y.at(-1))}${unit}`).join(", ");
    const svg = draw("svg", {
      viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "img",
      "aria-label": `${chart.title}: last value ${final}. Arrow keys read single epochs.`,
    });
    for (const t of ticks(low, high, isLog)) {
      svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: upward(t), y2: upward(t) }));
      svg.append(draw("text", { x: left - 6, y: upward(t) + 4, "text-anchor": "end" }, short(t)));
    }
    for (const t of ticks(first, last, false).filter((t) => Number.isInteger(t))) {
      svg.append(draw("text", { x: across(t), y: height - 8, "text-anchor": "middle" }, String(t)));
    }
    const color = (k) => (k === 0 ? "var(--blue)" : PALETTE[k % PALETTE.length]);
    chart.series.forEach((s, k) => {
      const path = s.x.map((x, i) => `${i ? "L" : "M"}${across(x).toFixed(1)},${upward(s.y[i]).toFixed(1)}`).join("");
      const line = draw("path", { class: "line", d: path });
      line.style.stroke = color(k);
      svg.append(line);
      if (s.x.length < 25) {
        for (let i = 0; i < s.x.length; i++) {
          const dot = draw("circle", { cx: across(s.x[i]), cy: upward(s.y[i]), r: 2.5 });
          dot.style.fill = color(k);
          svg.append(dot);
        }
      }
    });
    const cursor = draw("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
    svg.append(cursor);
    const epochs = [...new Set(xs)].sort((a, b) => a - b);
    let at = epochs.length - 1;
    const read = (place) => {
      at = Math.max(0, Math.min(epochs.length - 1, place));
      const epoch = epochs[at];
      cursor.setAttribute("x1", across(epoch));
      cursor.setAttribute("x2", across(epoch));
      cursor.setAttribute("visibility", "visible");
      const told = chart.series.filter((s) => s.x.includes(epoch))
        .map((s) => `${s.name ? `${s.name} ` : ""}${short(s.y[s.x.indexOf(epoch)])}${unit}`);
      value.textContent = `epoch ${epoch}: ${told.join(", ")}`;
    };
    const rest = () => {
      cursor.setAttribute("visibility", "hidden");
      value.textContent = chart.series.length === 1 ? final : "";
    };
    svg.addEventListener("pointermove", (event) => {
      const x = (event.offsetX / svg.clientWidth) * width;
      read(epochs.reduce((best, e, i) => (Math.abs(across(e) - x) < Math.abs(across(epochs[best]) - x) ? i : best), 0));
    });
    svg.addEventListener("pointerleave", rest);
    svg.addEventListener("blur", rest);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      read(at + step);
    });
    rest();
    box.append(svg);
    if (chart.series.length > 1) {
      const names = make("ul", { class: "names" });
      chart.series.forEach((s, k) => {
        const dot = make("span", { class: "dot" });
        dot.style.background = color(k);
        names.append(make("li", {}, dot, s.name));
      });
      box.append(names);
    }
    return box;
  }

  if (find("charts")) find("charts").append(...content.charts.map(curve));

  /* Gallery */

  const layers = content.layers;
  let layer = layers[Math.min(1, layers.length - 1)] || null;

  function describe(shape) {
    const said = shape.predicted ? `, predicted ${shape.predicted}` : "";
    return `${shape.id}: ${shape.class_name || "no class"}${said}`;
  }

  function card(shape) {
    const canvas = make("canvas", {
      tabindex: 0, role: "img", "aria-label": `${describe(shape)}. Arrow keys turn the shape.`,
    });
    const title = shape.wrong ? `${shape.predicted}, not ${shape.class_name}` : shape.class_name || shape.id;
    const more = make("button", { type: "button", "aria-label": `Enlarge ${shape.id}`, title: "Enlarge" }, "⤢");
    const sure = shape.facts.length ? `${shape.facts[0][0]} ${shape.facts[0][1]}` : "";
    const end = shape.id.split("/").at(-1);
    const below = shape.wrong === null && shape.rank === 0 ? end : `${sure}, ${end}`;
    const text = make("div", { class: "text" }, make("b", { title }, title), make("small", { title: shape.id }, below), more);
    const article = make("article", shape.wrong ? { class: "wrong" } : {}, canvas, text);
    const viewer = new Viewer(canvas, shape, layer);
    more.addEventListener("click", () => enlarge(shape, viewer, more));
    return article;
  }

  function showLegend() {
    const legend = find("legend");
    legend.replaceChildren();
    if (!layer) return;
    if (layer.kind === "scale") {
      const canvas = make("canvas", { width: 256, height: 1, "aria-hidden": "true" });
      const context = canvas.getContext("2d");
      const image = context.createImageData(256, 1);
      const table = bytes(content.ramps[isDark() ? "dark" : "light"]);
      for (let i = 0; i < 256; i++) image.data.set([...table.subarray(3 * i, 3 * i + 3), 255], 4 * i);
      context.putImageData(image, 0, 0);
      legend.append(make("span", {}, layer.low), canvas, make("span", {}, layer.high));
    }
    if (layer.kind === "kinds" && layer.kinds.length <= 6) {
      const colors = kindColors(layer);
      layer.kinds.forEach((name, k) => {
        const dot = make("span", { class: "dot" });
        dot.style.background = colors[k];
        legend.append(make("span", {}, dot, name));
      });
    }
    if (layer.note) legend.append(make("span", {}, layer.note));
  }

  function gallery() {
    const shapes = content.shapes;
    const cards = shapes.map(card);
    find("gallery").append(...cards);
    const worst = shapes.filter((s) => s.rank > 0).sort((a, b) => b.rank - a.rank).slice(0, 8);
    if (find("worst")) find("worst").append(...worst.map(card));
    const fill = (id, values) => {
      const distinct = [...new Set(values)].filter(Boolean).sort();
      find(id).append(...distinct.map((value) => make("option", { value }, value)));
      return distinct.length;
    };
    fill("class", shapes.map((s) => s.class_name));
    find("split-label").hidden = fill("split", shapes.map((s) => s.split)) < 2;
    find("outcome-label").hidden = !shapes.some((s) => s.wrong !== null);
    for (const option of layers) find("layer").append(make("option", { value: option.key }, option.title));
    if (layer) find("layer").value = layer.key;
    find("layer").closest("label").hidden = layers.length < 2;

    let all = false;
    find("more").addEventListener("click", () => {
      all = true;
      const next = cards.find((other) => other.hidden);
      filter();
      next.querySelector("canvas").focus();
    });
    const filter = () => {
      const wanted = find("find").value.trim().toLowerCase();
      const [kind, split, outcome] = ["class", "split", "outcome"].map((id) => find(id).value);
      let fitting = 0;
      shapes.forEach((shape, i) => {
        const text = `${shape.id} ${shape.class_name} ${shape.predicted}`.toLowerCase();
        const fits = text.includes(wanted) && (!kind || shape.class_name === kind)
          && (!split || shape.split === split)
          && (!outcome || (shape.wrong !== null && shape.wrong === (outcome === "wrong")));
        fitting += fits;
        cards[i].hidden = !fits || (!all && fitting > FIRST);
      });
      find("count").textContent = `${fitting} of ${shapes.length} shapes`;
      find("more").hidden = all || fitting <= FIRST;
      find("more").textContent = `Show all ${fitting}`;
    };
    const color = () => {
      layer = layers.find((option) => option.key === find("layer").value) || null;
      for (const viewer of viewers) viewer.show(layer);
      showLegend();
    };
    const form = find("filters");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      if (event.target === find("layer")) color();
      else if (event.target === find("together")) together = find("together").checked;
      else filter();
    });
    form.addEventListener("reset", () => setTimeout(() => {
      if (layers.length) find("layer").value = layers[Math.min(1, layers.length - 1)].key;
      together = false;
      filter();
      color();
      for (const viewer of viewers) viewer.reset();
    }));
    filter();
    showLegend();
  }

  function enlarge(shape, small, opener) {
    const dialog = find("large");
    const old = dialog.querySelector("canvas");
    const canvas = make("canvas", {
      tabindex: 0, role: "img", "aria-label": `${describe(shape)}. Arrow keys turn the shape.`, "data-pixels": 1000,
    });
    old.replaceWith(canvas);
    find("large-title").textContent = shape.id;
    const facts = [["class", shape.class_name || "none"], ["split", shape.split || "none"]];
    if (shape.predicted) facts.push(["predicted", shape.predicted]);
    facts.push(["points shown", String(shape.n)], ...shape.facts);
    dialog.querySelector("dl").replaceChildren(
      ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]),
    );
    find("views").hidden = !shape.views;
    if (shape.views) dialog.querySelector("img").src = shape.views;
    const viewer = new Viewer(canvas, shape, layer);
    Object.assign(viewer, { yaw: small.yaw, pitch: small.pitch, zoom: small.zoom });
    dialog.addEventListener("close", () => {
      viewers.delete(viewer);
      watch.unobserve(canvas);
      opener.focus();
    }, { once: true });
    dialog.showModal();
    canvas.focus();
  }

  find("close").addEventListener("click", () => find("large").close());
  find("large").addEventListener("click", (event) => {
    if (event.target === find("large")) find("large").close();
  });

  /* Map */

  function plane(map) {
    const svg = find("plane"), tip = find("tip"), size = 640, margin = 24;
    svg.setAttribute("viewBox", `0 0 ${size} ${size}`);
    const place = (share) => margin + share * (size - 2 * margin);
    const style = (kind) => ({ color: PALETTE[kind % PALETTE.length], mark: MARKS[Math.floor(kind / PALETTE.length) % MARKS.length] });
    const marks = map.ids.map((id, i) => {
      const { color, mark } = style(map.kinds[i]);
      const path = draw("path", {
        d: mark, fill: color, transform: `translate(${place(map.x[i]).toFixed(1)},${place(1 - map.y[i]).toFixed(1)})`,
      });
      if (map.wrong[i]) path.classList.add("wrong");
      path.addEventListener("pointerenter", () => point(i));
      path.addEventListener("pointerdown", () => point(i));
      return path;
    });
    svg.append(...marks);
    svg.addEventListener("pointerleave", () => (tip.hidden = true));
    svg.addEventListener("blur", () => (tip.hidden = true));
    const viewer = new Viewer(tip.querySelector("canvas"), { points: "", layers: {} });
    tip.querySelector("canvas").setAttribute("aria-hidden", "true");
    let at = -1, chosen = null;

    function point(i) {
      at = i;
      tip.hidden = false;
      viewer.shape = { points: map.thumbnails[i], normals: "", layers: {} };
      Object.assign(viewer, { unpacked: null, colors: null, dirty: true });
      viewer.paint();
      const wrong = map.wrong[i] ? " (mistaken)" : "";
      tip.querySelector("p").textContent = `${map.names[map.kinds[i]]}${wrong}, ${map.ids[i]}`;
      const scale = svg.clientWidth / size;
      const x = place(map.x[i]) * scale, y = place(1 - map.y[i]) * scale;
      tip.style.left = `${Math.max(0, Math.min(svg.clientWidth - 134, x + (x > svg.clientWidth / 2 ? -144 : 12)))}px`;
      tip.style.top = `${Math.max(0, Math.min(svg.clientHeight - 170, y - 60))}px`;
    }

    svg.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (event.key === "Escape") tip.hidden = true;
      if (!way) return;
      event.preventDefault();
      if (at < 0) return point(0);
      let best = -1, least = Infinity;
      map.ids.forEach((_, i) => {
        const x = map.x[i] - map.x[at], y = map.y[i] - map.y[at];
        const along = x * way[0] + y * way[1], aside = Math.abs(x * way[1]) + Math.abs(y * way[0]);
        if (along > 1e-6 && (chosen === null || map.kinds[i] === chosen) && along + 2 * aside < least) {
          best = i;
          least = along + 2 * aside;
        }
      });
      if (best >= 0) point(best);
      return undefined;
    });

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
  }

  setTheme(remembered() ? remembered() === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  if (content.shapes.length) gallery();
  if (content.map) plane(content.map);
})();
