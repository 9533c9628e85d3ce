// Sorts by a column and filters by words; without it the table stands as it is.
const body = document.querySelector("#results tbody");
const heads = [...document.querySelectorAll("#results th")];
const value = (row, place) => row.cells[place].dataset.sort ?? row.cells[place].textContent;
heads.forEach((head, place) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].sort((a, b) => value(a, place).localeCompare(value(b, place), "en", { numeric: true }));
    body.append(...(up ? rows : rows.reverse()));
  });
});
const filter = document.getElementById("filter");
filter.parentElement.hidden = false;
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/);
  for (const row of body.rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
});
