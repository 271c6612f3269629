for (const data of document.querySelectorAll("script[data-chart]")) {
  const place = document.getElementById(data.dataset.chart);
  const actions = {export: true, source: false, compiled: false, editor: false};
  vegaEmbed(place, JSON.parse(data.textContent), {mode: "vega-lite", renderer: "svg", ast: true, actions: actions})
    .catch((error) => { place.textContent = "This chart cannot be drawn: " + error; });
}
for (const field of document.querySelectorAll("input[data-filter]")) {
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const card of field.closest("section").querySelectorAll("details.card")) {
      card.hidden = !card.textContent.toLowerCase().includes(wanted);
    }
  });
}
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", () => navigator.clipboard.writeText(button.dataset.copy)
    .then(() => { button.textContent = "Copied"; }, () => { button.textContent = "Copying is not allowed here"; }));
}
function openCard() {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const card = place && place.closest("details");
  if (card) { card.open = true; card.hidden = false; card.scrollIntoView(); }
}
addEventListener("hashchange", openCard);
openCard();
