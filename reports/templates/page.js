"use strict";
const root = document.documentElement;
const preferred = window.matchMedia("(prefers-color-scheme: dark)");

function colours() {
  const dark = root.dataset.mode === "dark";
  const grid = dark ? "rgba(160,168,180,0.18)" : "rgba(128,134,144,0.25)";
  return { "font.color": dark ? "#d9dbe0" : "#30343b", "xaxis.gridcolor": grid, "yaxis.gridcolor": grid };
}

function paint(mode) {
  root.dataset.mode = mode;
  document.querySelectorAll(".chart").forEach((chart) => chart.data && Plotly.relayout(chart, colours()));
}

root.dataset.mode = preferred.matches ? "dark" : "light";
preferred.addEventListener("change", (event) => paint(event.matches ? "dark" : "light"));
document.getElementById("mode").addEventListener("click", () => paint(root.dataset.mode === "dark" ? "light" : "dark"));

// The one button saves the figure as SVG.
const SHOWN = { responsive: true, displaylogo: false, modeBarButtons: [["toImage"]], toImageButtonOptions: { format: "svg" } };

// A figure is drawn when it is first seen: of many behind a choice, only those that are looked at.
function draw(within) {
  within.querySelectorAll(".chart").forEach((chart) => {
    if (chart.closest("[hidden], details:not([open])")) return;
    if (chart.data) { Plotly.Plots.resize(chart); return; }
    const { data, layout } = JSON.parse(chart.nextElementSibling.textContent);
    layout.autosize = true;
    Plotly.newPlot(chart, data, layout, SHOWN)
      .then(() => Plotly.relayout(chart, colours()));
  });
}

// One of several things to look at; without a script all of them stand below each other.
document.querySelectorAll(".choices").forEach((choices) => {
  const select = choices.querySelector("select"), shown = [...choices.children].filter((child) => child.matches(".choice"));
  const choose = () => {
    shown.forEach((choice, at) => { choice.hidden = at !== select.selectedIndex; });
    draw(choices);
  };
  choices.classList.add("alive");
  shown.forEach((choice, at) => { choice.hidden = at !== select.selectedIndex; });
  select.addEventListener("change", choose);
});

draw(document);
document.querySelectorAll("details.fold").forEach((details) => details.addEventListener("toggle", () => draw(details)));

document.querySelectorAll("button.copy").forEach((button) => button.addEventListener("click", () =>
  navigator.clipboard.writeText(button.nextElementSibling.textContent).then(() => { button.textContent = "copied"; })));

document.querySelectorAll("button.download").forEach((button) => button.addEventListener("click", () => {
  const blob = new Blob([JSON.parse(button.nextElementSibling.textContent)], { type: "text/csv" });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: button.dataset.name });
  link.click();
  URL.revokeObjectURL(link.href);
}));

// A click on a heading sorts its table; numbers are read with their true minus signs.
document.querySelectorAll("th").forEach((head) => head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex, down = head.dataset.sorted !== "down";
  const value = (row) => {
    const text = row.cells[column].textContent.trim(), number = parseFloat(text.replace("−", "-").replace(/[,+]/g, ""));
    return Number.isNaN(number) ? text : number;
  };
  const rows = [...body.rows].sort((a, b) => (value(a) > value(b) ? 1 : -1) * (down ? -1 : 1));
  head.closest("tr").querySelectorAll("th").forEach((other) => delete other.dataset.sorted);
  head.dataset.sorted = down ? "down" : "up";
  body.append(...rows);
}));

let closed = [];
window.addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details.fold:not([open])")];
  closed.forEach((details) => { details.open = true; });
  draw(document);
  paint("light");
  fit(640); // a sheet of paper is narrower than a screen
});
window.addEventListener("afterprint", () => {
  closed.forEach((details) => { details.open = false; });
  fit(null);
});

function fit(width) {
  document.querySelectorAll(".chart").forEach((chart) => chart.data && Plotly.relayout(chart, { width, autosize: width === null }));
}
