const content = JSON.parse(document.getElementById("content").textContent);
const find = (id) => document.getElementById(id);
const root = document.documentElement;

// Okabe and Ito's colors in the order in which categories take them, three of them darkened: every
// one stands out from the light ground and from the dark one by a contrast of 3 at least.
const PALETTE = ["#0072b2", "#c58700", "#009e73", "#cc79a7", "#3a9ad4", "#d55e00", "#a0920a", "#7d848d"];
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

// Whether the wheel means what it is over, and not the page: after a click on it, or with Ctrl.
const takesWheel = (element, event) => event.ctrlKey || document.activeElement === element;
const wheelFactor = (event) => Math.exp(-event.deltaY * (event.deltaMode === 1 ? 16 : 1) / 400);

/* Pictures as files */

function saveCanvas(canvas, name) {
  const whole = make("canvas", { width: canvas.width, height: canvas.height });
  const context = whole.getContext("2d");
  context.fillStyle = css("--panel");
  context.fillRect(0, 0, whole.width, whole.height);
  context.drawImage(canvas, 0, 0);
  const file = `${name.replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(-80)}.png`;
  make("a", { href: whole.toDataURL("image/png"), download: file }).click();
}

function saveDrawing(svg, name) {
  const copy = svg.cloneNode(true);
  const copies = copy.querySelectorAll("*");
  svg.querySelectorAll("*").forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const property of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font"]) {
      copies[i].style.setProperty(property, style.getPropertyValue(property));
    }
  });
  const { width, height } = svg.viewBox.baseVal;
  const size = 1200 / width;
  copy.setAttribute("width", 1200);
  copy.setAttribute("height", height * size);
  const image = new Image();
  image.addEventListener("load", () => {
    const canvas = make("canvas", { width: 1200, height: Math.round(height * size) });
    canvas.getContext("2d").drawImage(image, 0, 0);
    saveCanvas(canvas, name);
  });
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
}

function saveButton(what, save) {
  const button = make("button", { type: "button", class: "save", "aria-label": `Save ${what} as PNG` }, "PNG");
  button.addEventListener("click", save);
  return button;
}
