// The list of cases: search, filters, order, keys; and, where all is in one file, which case is shown.
"use strict";
(() => {
  const list = document.getElementById("cases");
  const all = [...list.children];
  const chosen = (id) => { const element = document.getElementById(id); return element ? element.value : ""; };
  const ORDERS = {
    doubt: (row) => -Number(row.dataset.doubt), dice: (row) => Number(row.dataset.dice), ml: (row) => -Number(row.dataset.ml),
  };

  function fits(row) {
    const words = chosen("search").trim().toLowerCase(), rating = chosen("by-rating"), fault = chosen("by-fault");
    const faults = row.dataset.faults ? row.dataset.faults.split(" ") : [];
    const classes = JSON.parse(row.dataset.classes);
    return (!words || row.dataset.case.toLowerCase().includes(words)) &&
      (!rating || (row.dataset.rating || "none") === rating) &&
      (!fault || (fault === "any" ? faults.length > 0 : fault === "no" ? !faults.length : faults.includes(fault))) &&
      (!chosen("by-class") || classes.includes(chosen("by-class")));
  }

  function arrange() {
    const order = ORDERS[chosen("sort")];
    const byName = (one, other) => one.dataset.case.localeCompare(other.dataset.case, undefined, {numeric: true});
    const sorted = [...all].sort((one, other) => (order ? order(one) - order(other) : 0) || byName(one, other));
    list.append(...sorted);
    filter();
  }

  function filter() {
    for (const row of all) row.hidden = !fits(row);
    document.getElementById("count").textContent = `${all.filter((row) => !row.hidden).length} of ${all.length} cases shown`;
  }

  function step(by) {
    const shown = [...list.children].filter((row) => !row.hidden);
    const at = shown.findIndex((row) => row.contains(document.activeElement));
    const next = shown[at < 0 ? (by > 0 ? 0 : shown.length - 1) : Math.min(Math.max(at + by, 0), shown.length - 1)];
    if (next) { next.querySelector("a.open").focus(); next.scrollIntoView({block: "nearest"}); }
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
    if (event.target.matches("input:not([type=radio]), select") || document.querySelector("article.case.shown")) return;
    const does = {j: () => step(1), k: () => step(-1), "/": () => document.getElementById("search").focus()}[event.key];
    if (does) { event.preventDefault(); does(); }
  }

  // All in one file: the part after # says which case is shown.
  const articles = [...document.querySelectorAll("article.case")];

  function route() {
    const shown = articles.find((article) => `#${article.id}` === location.hash);
    for (const article of articles) {
      article.hidden = article !== shown;
      article.classList.toggle("shown", article === shown);
    }
    document.getElementById("index").hidden = Boolean(shown);
    document.getElementById("one").hidden = !shown;
    window.scrollTo(0, 0);
    document.dispatchEvent(new CustomEvent("shown", {detail: shown || null}));
    if (!shown) filter();
  }

  document.getElementById("filters").addEventListener("input", arrange);
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("rated", filter);
  document.addEventListener("keydown", onKey);
  arrange();
  if (articles.length) {
    window.addEventListener("hashchange", route);
    window.addEventListener("load", route);
    document.addEventListener("keydown", (event) => {
      const at = articles.findIndex((article) => article.classList.contains("shown"));
      if (at < 0 || event.ctrlKey || event.metaKey || event.target.matches("input:not([type=radio]):not([type=checkbox]), select")) return;
      const order = [...list.children].filter((row) => !row.hidden).map((row) => row.id.replace("row-", ""));
      const next = {"[": order[order.indexOf(articles[at].id) - 1], "]": order[order.indexOf(articles[at].id) + 1]}[event.key];
      if (next) location.hash = next;
    });
  }
})();
