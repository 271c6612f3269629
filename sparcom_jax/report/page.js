for (const data of document.querySelectorAll("script[data-chart]")) {
  const place = document.getElementById(data.dataset.chart);
  const actions = {export: true, source: false, compiled: false, editor: false};
  vegaEmbed(place, JSON.parse(data.textContent), {mode: "vega-lite", renderer: "svg", ast: true, actions: actions})
    .catch((error) => { place.textContent = "This chart cannot be drawn: " + error; });
}
