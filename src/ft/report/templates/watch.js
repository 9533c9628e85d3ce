// Asks every few seconds whether the page has changed, and puts what is new in its place: the reader stays where they
// are, and what they opened stays open. Without it the page is one of the moment it was loaded.
const SECONDS = 3;
const tag = (page) => page.querySelector("meta[name=ft-watch]").content;
const main = document.getElementById("main");
let etag = tag(document);

// Each <details> by its section, its figure and its summary; the number tells those apart that have all of these alike.
function named(part) {
  const names = new Map();
  for (const one of part.querySelectorAll("details")) {
    const words = [
      one.closest("section")?.getAttribute("aria-labelledby"),
      one.closest("figure")?.querySelector("figcaption")?.textContent,
      one.querySelector("summary")?.textContent,
    ].join(" ");
    let number = 0;
    while (names.has(`${words} ${number}`)) number += 1;
    names.set(`${words} ${number}`, one);
  }
  return names;
}

function anchor() {
  const above = [...main.querySelectorAll("[id]")].filter((one) => one.getBoundingClientRect().top <= 1);
  const id = above.at(-1)?.id;
  return { id, top: id ? document.getElementById(id).getBoundingClientRect().top : 0 };
}

function show(page) {
  const open = [...named(main)].filter(([, one]) => one.open).map(([name]) => name);
  const focused = [...named(main)].find(([, one]) => one.querySelector("summary") === document.activeElement)?.[0];
  const place = anchor();
  main.replaceChildren(...page.getElementById("main").childNodes);
  const contents = [document.querySelector("nav.contents"), page.querySelector("nav.contents")];
  if (contents[0] && contents[1]) contents[0].replaceWith(contents[1]);
  main.querySelectorAll("figure").forEach(showValues); // of charts.js
  tip.hidden = true;
  const now = named(main);
  for (const name of open) if (now.has(name)) now.get(name).open = true;
  if (focused && now.has(focused)) now.get(focused).querySelector("summary").focus({ preventScroll: true });
  const back = place.id && document.getElementById(place.id);
  if (back) window.scrollBy({ top: back.getBoundingClientRect().top - place.top, behavior: "instant" });
  document.title = page.title;
}

async function ask() {
  const words = document.getElementById("watch");
  try {
    const answer = await fetch("/", { headers: { "If-None-Match": `"${etag}"` }, cache: "no-store" });
    words.classList.remove("lost");
    const reads = !document.getSelection().isCollapsed;
    if (answer.status === 200 && !reads) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      show(page);
      etag = tag(page);
    }
  } catch {
    words.classList.add("lost");
  }
  setTimeout(ask, SECONDS * 1000);
}
setTimeout(ask, SECONDS * 1000);
