// Choices: one alternative is shown. Choices of one thing, such as the units, go together all over the page.
const choices = [...document.querySelectorAll(".choice")];
const own = (choice, what) => [...choice.children].filter((child) => child.matches(what));
const chooser = (choice) => own(choice, ".chooser")[0].querySelector("select");
function show(choice) {
  const wanted = chooser(choice).selectedIndex;
  own(choice, ".option").forEach((option, at) => { option.hidden = at !== wanted; });
}
for (const choice of choices) {
  choice.classList.add("live");
  show(choice);
  chooser(choice).addEventListener("change", () => {
    const value = chooser(choice).value;
    show(choice);
    for (const other of choices) {
      const same = [...chooser(other).options].findIndex((option) => option.value === value);
      if (other.dataset.choice === choice.dataset.choice && same >= 0) {
        chooser(other).selectedIndex = same;
        show(other);
      }
    }
  });
}

// Links reach what is folded or not chosen, and `#L12.N340` the first card of that unit.
function open() {
  const name = decodeURIComponent(location.hash.slice(1));
  if (!name) return;
  const card = [...document.querySelectorAll("details.card")].find((one) => one.dataset.unit === name);
  const place = document.getElementById(name) || card;
  if (!place) return;
  for (let at = place; at; at = at.parentElement) {
    if (at.matches("details")) { at.open = true; at.hidden = false; }
    if (at.matches(".option")) {
      chooser(at.parentElement).selectedIndex = own(at.parentElement, ".option").indexOf(at);
      show(at.parentElement);
    }
  }
  place.scrollIntoView();
}
addEventListener("hashchange", open);
open();

// Tables: sort by a column, filter the rows, save as CSV.
const cell = (row, at) => row.cells[at].textContent;
const value = (text) => {
  const number = parseFloat(text.replace(/[,[\]]/g, ""));
  return Number.isNaN(number) ? null : number;
};
function order(table, at, down) {
  const rows = [...table.tBodies[0].rows], numbers = table.rows[0].cells[at].classList.contains("n");
  const compare = (a, b) => {
    const [x, y] = [a, b].map((row) => numbers ? value(cell(row, at)) : cell(row, at));
    if (x === null || y === null) return (x === null) - (y === null);
    return (down ? -1 : 1) * (numbers ? x - y : x.localeCompare(y));
  };
  table.tBodies[0].append(...rows.sort(compare));
}
function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
function button(text, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", action);
  return made;
}
for (const table of document.querySelectorAll("table.data")) {
  [...table.rows[0].cells].forEach((head, at) => {
    const sorter = button(head.textContent, () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      order(table, at, down);
    });
    head.replaceChildren(sorter);
  });
  const tools = document.createElement("p");
  tools.className = "tools";
  if (table.tBodies[0].rows.length > 8) {
    const label = document.createElement("label"), filter = document.createElement("input");
    filter.type = "search";
    filter.addEventListener("input", () => {
      const wanted = filter.value.trim().toLowerCase();
      for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    label.append("Filter ", filter);
    tools.append(label);
  }
  tools.append(button("Save as CSV", () => {
    const quoted = (text) => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    const lines = [...table.rows].filter((row) => !row.hidden)
      .map((row) => [...row.cells].map((one) => quoted(one.textContent)).join(","));
    save("table.csv", lines.join("\n") + "\n", "text/csv");
  }));
  table.closest(".wide").before(tools);
}

// Cards of units: filter, copy the name, save.
for (const field of document.querySelectorAll("input[data-filter]")) {
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const card of field.closest(".cards").querySelectorAll("details.card")) {
      card.hidden = !card.textContent.toLowerCase().includes(wanted);
    }
  });
}
for (const copy of document.querySelectorAll("button[data-copy]")) {
  copy.addEventListener("click", () => navigator.clipboard.writeText(copy.dataset.copy)
    .then(() => { copy.textContent = "Copied"; }, () => { copy.textContent = "Copying is not allowed here"; }));
}
for (const saver of document.querySelectorAll("button[data-save]")) {
  saver.addEventListener("click", () =>
    save(saver.dataset.save, saver.closest("details").querySelector("script").textContent, "application/json"));
}
