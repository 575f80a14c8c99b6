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
  box.querySelector("h3").append(saveButton(chart.title, () => saveDrawing(box.querySelector("svg"), chart.title)));
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
    if (k >= PALETTE.length) line.style.strokeDasharray = "5 3";
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
