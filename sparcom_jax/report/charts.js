const dark = matchMedia("(prefers-color-scheme: dark)");
const ink = "#d6dade", faint = "#3a4046";
const themes = {
  light: {background: "transparent"},
  dark: {
    background: "transparent", view: {stroke: faint}, title: {color: ink}, header: {labelColor: ink, titleColor: ink},
    axis: {labelColor: ink, titleColor: ink, gridColor: faint, domainColor: "#6b737b", tickColor: "#6b737b"},
    legend: {labelColor: ink, titleColor: ink}, text: {color: ink},
  },
};
const drawn = new Set();

// Charts are drawn when they come into view: those that a choice hides, once they are chosen.
function unpacked({names, coded, words, rows}) {
  return rows.map((row) => Object.fromEntries(
    names.map((name, at) => [name, coded[at] && row[at] !== null ? words[row[at]] : row[at]])));
}
function draw(data) {
  drawn.add(data);
  const place = document.getElementById(data.dataset.chart);
  const actions = {export: true, source: false, compiled: false, editor: false};
  const spec = JSON.parse(data.textContent), theme = themes[dark.matches ? "dark" : "light"];
  for (const name of Object.keys(spec.datasets)) spec.datasets[name] = unpacked(spec.datasets[name]);
  const config = {...spec.config};
  for (const [part, value] of Object.entries(theme)) {
    config[part] = typeof value === "string" ? value : {...config[part], ...value};
  }
  vegaEmbed(place, {...spec, config}, {mode: "vega-lite", renderer: "svg", ast: true, actions})
    .then(() => { place.dataset.drawn = Math.round(performance.now()); })
    .catch((error) => { place.textContent = "This chart cannot be drawn: " + error; });
}
const charts = new Map();
const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) { watch.unobserve(entry.target); draw(charts.get(entry.target)); }
  }
}, {rootMargin: "300px"});
function found() {
  return [...document.querySelectorAll("script[data-chart]")].filter((data) => {
    const place = document.getElementById(data.dataset.chart), known = charts.has(place);
    charts.set(place, data);
    return !known;
  });
}
// This script stands behind the first screen: its picture need not wait for the rest of the page to be read.
for (const data of found()) draw(data);
addEventListener("DOMContentLoaded", () => {
  for (const data of found()) watch.observe(document.getElementById(data.dataset.chart));
});
dark.addEventListener("change", () => { for (const data of drawn) draw(data); });
addEventListener("beforeprint", () => {
  for (const [place, data] of charts) if (!drawn.has(data) && place.offsetParent) draw(data);
});
