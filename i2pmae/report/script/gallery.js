/* Gallery */

const layers = content.layers;
let layer = layers[Math.min(1, layers.length - 1)] || null;

function describe(shape) {
  const said = shape.predicted ? `predicted ${shape.predicted}, ` : "";
  const known = shape.class_name ? (said ? `true ${shape.class_name}` : shape.class_name) : "no class";
  return `${shape.id}: ${said}${known}`;
}

function card(shape) {
  const canvas = make("canvas", {
    tabindex: 0, role: "img", "aria-label": `${describe(shape)}. Arrow keys turn the shape.`,
  });
  const title = shape.wrong ? `predicted ${shape.predicted}, true ${shape.class_name}` : shape.class_name || shape.id;
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
  const facts = shape.predicted ? [["predicted", shape.predicted]] : [];
  facts.push([shape.predicted ? "true" : "class", shape.class_name || "none"], ["split", shape.split || "none"]);
  facts.push(["points shown", String(shape.n)], ...shape.facts);
  dialog.querySelector("dl").replaceChildren(
    ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]),
  );
  find("views").hidden = !shape.views;
  if (shape.views) dialog.querySelector("img").src = shape.views;
  const viewer = new Viewer(canvas, shape, layer);
  Object.assign(viewer, { yaw: small.yaw, pitch: small.pitch, zoom: small.zoom });
  const save = saveButton(shape.id, () => saveCanvas(canvas, shape.id));
  find("save").replaceChildren(save);
  dialog.addEventListener("close", () => {
    viewer.drop();
    opener.focus();
  }, { once: true });
  dialog.showModal();
  canvas.focus();
}

find("close").addEventListener("click", () => find("large").close());
find("large").addEventListener("click", (event) => {
  if (event.target === find("large")) find("large").close();
});

/* The same shapes in columns */

function clouds(content) {
  const layer = { key: "kinds", kind: "kinds", kinds: content.kinds, colors: ["--blue", "--orange", "--neutral"] };
  content.kinds.forEach((name, k) => {
    const dot = make("span", { class: "dot" });
    dot.style.background = `var(${layer.colors[k]})`;
    find("clouds-legend").append(make("span", {}, dot, name));
  });
  document.querySelectorAll("#clouds canvas").forEach((canvas) => {
    const row = content.rows[canvas.dataset.row];
    const cloud = row.clouds[canvas.dataset.column];
    if (!row.viewers) row.viewers = [];
    const shape = { points: cloud.points, normals: "", layers: { kinds: cloud.kinds } };
    row.viewers.push(new Viewer(canvas, shape, layer, row.viewers));
  });
}
