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
  if (layer.colors) return layer.colors.map(css);
  if (layer.kinds.length !== 2) return PALETTE;
  return layer.kinds[0] === "right" ? [css("--neutral"), css("--orange")] : [css("--blue"), css("--orange")];
};

class Viewer {
  // Those of a group turn together.
  constructor(canvas, shape, layer = null, group = null) {
    Object.assign(this, START, { canvas, shape, layer, group: group || [this], dirty: true, seen: false });
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
    canvas.addEventListener("wheel", (event) => {
      if (!takesWheel(canvas, event)) return;
      event.preventDefault();
      this.scale(wheelFactor(event));
    }, { passive: false });
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
    const moved = together ? viewers : this.group;
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

  drop() {
    viewers.delete(this);
    watch.unobserve(this.canvas);
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
