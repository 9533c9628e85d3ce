// Shows a chart's row of values under the pointer, and saves its table. Without it the tables say the same.
const tip = document.body.appendChild(document.createElement("div"));
tip.className = "tip";
tip.hidden = true;
const cells = (row) => [...row.cells].map((cell) => cell.textContent);
const plain = (text) => (text === "·" ? "" : text.replace(/(?<=\d),(?=\d{3}\b)/g, ""));
// In the units of the drawing, as ft.figures.axes has them
const WIDTH = 360, LEFT = 46, RIGHT = 10;
const rowAt = (svg, rows, x, y) => {
  const share = (x - LEFT) / (WIDTH - LEFT - RIGHT), { x: ends, row, bins } = svg.dataset;
  if (ends) {
    const [low, high] = ends.split(" ").map(Number), place = low + share * (high - low);
    const away = (one) => Math.abs(plain(one.cells[0].textContent) - place);
    return rows.reduce((best, one) => (away(one) < away(best) ? one : best));
  }
  if (row) return rows[Math.floor((y - row.split(" ")[0]) / row.split(" ")[1])];
  return bins === undefined ? undefined : rows[Math.floor(share * rows.length)];
};
const showValues = (figure) => {
  const svg = figure.querySelector("svg.chart"), table = figure.querySelector("details table");
  if (!svg || !table) return;
  const head = cells(table.tHead.rows[0]), rows = [...table.tBodies[0].rows];
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), scale = WIDTH / box.width;
    const row = rows.length && rowAt(svg, rows, (event.clientX - box.x) * scale, (event.clientY - box.y) * scale);
    tip.hidden = !row;
    if (!row) return;
    tip.textContent = cells(row).map((text, place) => `${head[place]} ${text}`.trim()).join("\n");
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 6)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });
  svg.addEventListener("pointerleave", () => (tip.hidden = true));
  svg.querySelector("title").textContent = ""; // the browser's own words would lie over the values
  const title = figure.querySelector("figcaption").textContent;
  svg.setAttribute("aria-label", title);
  svg.removeAttribute("aria-labelledby");
  const save = (name, type, write) => {
    const link = document.createElement("a");
    link.textContent = `Save as ${name}`;
    link.setAttribute("aria-label", `Save as ${name}: ${title}`);
    link.download = `${title}.${name.toLowerCase()}`;
    link.href = "#";
    link.addEventListener("click", () => (link.href = `data:${type};charset=utf-8,${encodeURIComponent(write())}`));
    return link;
  };
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const values = () => rows.map((row) => cells(row).map(plain));
  const csv = () => [head, ...values()].map((row) => row.map(quoted).join(",") + "\n").join("");
  const json = () => JSON.stringify(values().map((row) => Object.fromEntries(row.map((text, n) => [head[n], text]))));
  const links = document.createElement("p");
  links.className = "note";
  links.append(save("CSV", "text/csv", csv), " · ", save("JSON", "application/json", json));
  table.closest("details").append(links);
};
document.querySelectorAll("figure").forEach(showValues);
