// Pass, fail, unsure: kept in the browser's storage by the report's id, exported and imported. All pages share this file.
"use strict";
(() => {
  const VALUES = ["pass", "fail", "unsure"];
  const KEYS = {p: "pass", f: "fail", u: "unsure"};
  const COLUMNS = ["report", "rater", "case", "rating", "note", "time"];
  // What spreadsheets would run as a formula goes behind an apostrophe, which an import takes away again.
  const FORMULA = /^[=+\-@\t\r]/;
  const report = document.body.dataset.report;
  const place = `fuse4seg:${report}`;
  const named = new Map();
  for (const holder of document.querySelectorAll("[data-case]")) {
    named.set(holder.dataset.case, [...(named.get(holder.dataset.case) || []), holder]);
  }
  let kept = {rater: "", ratings: {}};

  const say = (text) => { document.getElementById("said").textContent = text; };
  const isRating = (given) => given && typeof given === "object" && (VALUES.includes(given.rating) || given.rating === "");

  function load() {
    try {
      const found = JSON.parse(localStorage.getItem(place) || "{}");
      kept = {rater: String(found.rater || ""), ratings: Object.create(null)};
      for (const [name, given] of Object.entries(found.ratings || {})) if (isRating(given)) kept.ratings[name] = given;
    } catch (error) {
      say("This browser keeps no ratings: export them before you leave the page.");
    }
  }

  function keep() {
    try {
      localStorage.setItem(place, JSON.stringify(kept));
    } catch (error) {
      say("This browser keeps no ratings: export them before you leave the page.");
    }
  }

  function rate(name, change) {
    kept.ratings[name] = {rating: "", note: "", ...kept.ratings[name], ...change, time: new Date().toISOString()};
    if (!kept.ratings[name].rating && !kept.ratings[name].note) delete kept.ratings[name];
    keep();
    show([name]);
  }

  function showOne(name) {
    const given = kept.ratings[name] || {rating: "", note: ""};
    for (const holder of named.get(name) || []) {
      holder.dataset.rating = given.rating;
      for (const choice of holder.querySelectorAll("input[type=radio]")) choice.checked = choice.value === given.rating;
      const note = holder.querySelector("input[name=note]");
      if (note && note.value !== given.note) note.value = given.note;
    }
  }

  function show(names) {
    names.forEach(showOne);
    const cases = [...named.keys()];
    const rated = Object.values(kept.ratings).filter((one) => one.rating).length;
    document.getElementById("rated").textContent =
      cases.length > 1 ? `${cases.filter((one) => (kept.ratings[one] || {}).rating).length} of ${cases.length} rated`
        : `${rated} rated in this report`;
    document.dispatchEvent(new CustomEvent("rated"));
  }

  function rows() {
    return Object.entries(kept.ratings).sort(([one], [other]) => (one < other ? -1 : 1)).map(([name, given]) =>
      ({report, rater: kept.rater, case: name, rating: given.rating, note: given.note, time: given.time}));
  }

  function asCsv(table) {
    const cell = (value) => {
      const text = FORMULA.test(value) ? `'${value}` : value;
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [COLUMNS, ...table.map((row) => COLUMNS.map((column) => String(row[column] ?? "")))]
      .map((cells) => cells.map(cell).join(",")).join("\r\n") + "\r\n";
  }

  function ofCsv(text) {
    const lines = [[""]];
    let quoted = false;
    for (let at = 0; at < text.length; at++) {
      const letter = text[at], line = lines[lines.length - 1];
      if (quoted && letter === '"' && text[at + 1] === '"') { line[line.length - 1] += '"'; at++; }
      else if (letter === '"') quoted = !quoted;
      else if (letter === "," && !quoted) line.push("");
      else if ((letter === "\n" || letter === "\r") && !quoted) { if (line.length > 1 || line[0]) lines.push([""]); }
      else line[line.length - 1] += letter;
    }
    const [header, ...others] = lines.filter((line) => line.length > 1);
    return (others || []).map((line) => Object.fromEntries(header.map((column, index) =>
      [column.replace(/^\uFEFF/, ""), (line[index] || "").replace(/^'(?=[=+\-@\t\r])/, "")])));
  }

  function ofFile(name, text) {
    if (name.toLowerCase().endsWith(".csv")) return ofCsv(text);
    const content = JSON.parse(text);
    return Object.entries(content.ratings || {}).map(([one, given]) => ({...given, case: one, report: content.report}));
  }

  function merge(found) {
    let taken = 0, older = 0;
    const foreign = found.filter((row) => row.report && row.report !== report).length;
    for (const row of found) {
      if (row.report !== report || typeof row.case !== "string" || !isRating(row)) continue;
      const known = kept.ratings[row.case];
      if (known && known.time >= String(row.time || "")) { older++; continue; }
      kept.ratings[row.case] = {rating: row.rating, note: String(row.note || ""), time: String(row.time || "")};
      taken++;
    }
    keep();
    show([...named.keys()]);
    return `${taken} ratings taken` + (older ? `, ${older} left out as yours are as new` : "") +
      (foreign ? `, ${foreign} left out as they are of another report` : "");
  }

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type}));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const fileName = (ending) => `ratings_${(kept.rater || "rater").replace(/[^\p{L}\p{N}_-]/gu, "_")}.${ending}`;
  const isTyping = (element) => element.matches("input:not([type=radio]):not([type=checkbox]):not([type=range]), select, textarea");
  const nameOf = (element) => element && element.closest("[data-case]") ? element.closest("[data-case]").dataset.case : null;

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (isTyping(event.target)) {
      if (event.key === "Escape" || (event.key === "Enter" && event.target.name === "note")) event.target.blur();
      return;
    }
    const help = document.getElementById("help");
    if (event.key === "?") { event.preventDefault(); if (help.open) help.close(); else help.showModal(); return; }
    if (help.open) return;
    const shown = document.querySelector("article.case.shown");
    const name = shown ? shown.dataset.case : nameOf(document.activeElement);
    if (name === null || !(event.key in KEYS || event.key === "n")) return;
    event.preventDefault();
    if (event.key === "n") (shown || document.activeElement.closest("[data-case]")).querySelector("input[name=note]").focus();
    else rate(name, {rating: (kept.ratings[name] || {}).rating === KEYS[event.key] ? "" : KEYS[event.key]});
  }

  document.addEventListener("change", (event) => {
    const name = nameOf(event.target);
    if (name === null) return;
    if (event.target.type === "radio") rate(name, {rating: event.target.value});
    if (event.target.name === "note") rate(name, {note: event.target.value});
  });
  document.addEventListener("click", (event) => {
    if (event.target.matches(".unrate")) rate(nameOf(event.target), {rating: ""});
  });
  document.addEventListener("keydown", onKey);
  document.getElementById("keys").addEventListener("click", () => document.getElementById("help").showModal());
  document.getElementById("rater").addEventListener("change", (event) => { kept.rater = event.target.value; keep(); });
  document.getElementById("export-csv").addEventListener("click", () => save(fileName("csv"), "text/csv", asCsv(rows())));
  document.getElementById("export-json").addEventListener("click", () => save(fileName("json"), "application/json",
    JSON.stringify({report, rater: kept.rater, ratings: kept.ratings}, null, 4)));
  document.getElementById("import").addEventListener("change", async (event) => {
    const file = event.target.files[0];
    if (!file) return;
    try {
      say(merge(ofFile(file.name, await file.text())));
    } catch (error) {
      say(`${file.name} holds no ratings.`);
    }
    event.target.value = "";
  });
  // Another page of the report, in another tab, may have rated.
  window.addEventListener("storage", (event) => { if (event.key === place) { load(); show([...named.keys()]); } });
  window.addEventListener("pageshow", (event) => { if (event.persisted) { load(); show([...named.keys()]); } });

  load();
  document.getElementById("rater").value = kept.rater;
  show([...named.keys()]);
})();
