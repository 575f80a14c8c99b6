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

/* On paper: light, with every shape drawn, also those that nobody has scrolled to */

let before = null;
function toPaper() {
  if (before !== null) return;
  before = { dark: isDark(), closed: [...document.querySelectorAll("#provenance details:not([open])")] };
  setTheme(false);
  for (const part of before.closed) part.open = true;
  for (const viewer of viewers) viewer.paint();
}
function toScreen() {
  if (before === null) return;
  for (const part of before.closed) part.open = false;
  setTheme(before.dark);
  before = null;
}
addEventListener("beforeprint", toPaper);
addEventListener("afterprint", toScreen);
matchMedia("print").addEventListener("change", (event) => (event.matches ? toPaper() : toScreen()));

setTheme(remembered() ? remembered() === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
if (content.shapes.length) gallery();
if (content.clouds) clouds(content.clouds);
if (content.map) plane(content.map);
