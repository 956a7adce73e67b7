// The clips: kept or dropped, sorted, found, around a threshold; a tile plays when the mouse rests on it.

import { $, count, h, picture, plural, post, short, toast, video } from "./dom.js";
import { sign, unmet } from "./filters.js";
import { label } from "./labelling.js";
import { active, ask, asked, changed, remember, state, stepOf, tell, wish } from "./state.js";

const SHOWN = { k: "kept", d: "dropped", a: "all" };
export const keys = [
  ["k d a", "kept, dropped, all clips", (key) => ask({ show: SHOWN[key], only: null })],
  ["r", "a random sample, another each time", () => shuffle()],
  ["v", "turn the order round", () => turn()],
  ["/", "find", () => $("#find").focus()],
  ["← → ↑ ↓", "from clip to clip", (key) => walk(key)],
  ["space", "play the clip", () => (tileAt() ? play(tileAt()) : false)],
  ["enter", "open the clip", null],
  ["g b", "label the clip good or bad", (key) => (tileAt() ? mark(tileAt().dataset.id, key === "g" ? "good" : "bad") : false)],
];
const bar = h("div", { class: "bar" });
const body = h("div", { class: "tiles", role: "list" });
const more = h("div", { class: "more" });
let others = true;

export const mount = (root) => root.replaceChildren(finder(), bar, body, more);

export function draw(event) {
  if (event.labelled) return repaint(event.labelled, event.answer);
  if (!state.view || (event !== "view" && event !== "near")) return;
  tools();
  if (state.near !== null) return around();
  const found = state.view?.grid;
  if (!found) return;
  const first = state.page.offset === 0;
  state.rows = first ? found.rows : [...state.rows, ...found.rows];
  const known = first && body.className === "tiles" ? new Map([...body.children].map((element) => [element.dataset.id, element])) : new Map();
  const tiles = found.rows.map((row) => (known.has(row.id) ? update(known.get(row.id), row) : tile(row)));
  body.className = "tiles";
  if (first) body.replaceChildren(...tiles);
  else body.append(...tiles);
  if (!state.rows.length) body.replaceChildren(h("p", { class: "message" }, found.error || "No clip here."));
  const rest = found.total - state.rows.length;
  more.replaceChildren(
    ...[
      rest > 0 && h("button", { onclick: next }, `${count(Math.min(rest, state.page.limit))} more of ${count(rest)}`),
      found.note && h("span", { class: "hint" }, found.note),
    ].filter(Boolean),
  );
}

function next() {
  state.page.offset += state.page.limit;
  wish({ grid: true });
}

new IntersectionObserver(
  (entries) => entries[0].isIntersecting && state.view?.grid && state.rows.length && state.rows.length < state.view.grid.total && state.rows.length < 600 && state.near === null && next(),
  { rootMargin: "200px" },
).observe(more);

function tools() {
  const { page, about } = state;
  const total = state.near === null ? state.view?.grid?.total : null;
  const tab = (name, key) =>
    h("button", { class: page.show === name && page.only === null && state.near === null ? "tab on" : "tab", title: `${name} (${key})`, onclick: () => ask({ show: name, only: null }) }, name);
  const sorts = [
    ["id", "order of the sources"],
    ["random", `random, seed ${page.seed}`],
    ...about.scores.map((score) => [score.name, score.name]),
  ];
  if (page.find.like || page.find.sentence) sorts.unshift(["like", "likeness"]);
  bar.replaceChildren(
    ...[
      h("span", { class: "tabs" }, tab("kept", "k"), tab("dropped", "d"), tab("all", "a")),
      page.only !== null && active()[page.only] && chip(`dropped by ${sign(active()[page.only], stepOf(active()[page.only]))}`, () => ask({ only: null })),
      state.near !== null && active()[state.near] && chip(`around ${sign(active()[state.near], stepOf(active()[state.near]))}`, () => ((state.near = null), tell("near"), wish({ grid: true }))),
      ...finds(),
      h("span", { class: "spacer" }),
      total !== null && total !== undefined && h("span", { class: "total", id: "grid-total" }, plural(total, "clip")),
      state.near === null &&
        h(
          "select",
          { "aria-label": "sort by", id: "sort", onchange: (event) => ask({ sort: event.target.value, descending: false }) },
          sorts.map(([value, name]) => h("option", { value, selected: page.sort === value }, name)),
        ),
      state.near === null && page.sort === "random" && h("button", { title: "another sample (r)", onclick: shuffle }, "⟳"),
      state.near === null && !["random", "like"].includes(page.sort) && h("button", { title: "turn the order round (v)", onclick: turn }, page.descending ? "↓" : "↑"),
    ].filter(Boolean),
  );
}

const turn = () => ask({ descending: !state.page.descending });
const shuffle = () => ask({ sort: "random", seed: state.page.seed + 1 });
const chip = (text, drop) => h("span", { class: "chip" }, text, h("button", { title: "remove", onclick: drop }, "×"));

function finds() {
  const { find } = state.page;
  const chips = [];
  const without = (name) => () => ask({ find: { ...find, [name]: "" }, sort: state.page.sort === "like" ? "id" : state.page.sort });
  if (find.words) chips.push(chip(`“${find.words}”`, without("words")));
  if (find.where) chips.push(chip(find.where, without("where")));
  if (find.sentence) chips.push(chip(`like “${find.sentence}”`, without("sentence")));
  if (find.like) chips.push(chip(`like ${find.like.slice(-12)}`, without("like")));
  if (find.label) chips.push(chip(`label: ${find.label}`, without("label")));
  if (find.group) chips.push(chip(`duplicates of ${find.group}`, without("group")));
  if (find.where || find.words) chips.push(h("button", { class: "quiet", title: "make this a filter of the selection", onclick: keep }, "+ filter"));
  return chips;
}

const name = (column) => (/^[a-z_]\w*$/i.test(column) ? column : `"${column.replaceAll('"', '""')}"`);
const literal = (text) => `'${text.replaceAll("'", "''")}'`;

// What was looked for, as a condition of the selection.
function keep() {
  const { find } = state.page;
  remember();
  if (find.where) state.filters.push({ kind: "where", sql: find.where });
  for (const word of find.words.split(/\s+/).filter(Boolean)) {
    const parts = state.about.captions.map((column) => `contains(lower(coalesce(${name(column)}, '')), ${literal(word.toLowerCase())})`);
    state.filters.push({ kind: "where", sql: parts.length > 1 ? `(${parts.join(" OR ")})` : parts[0] });
  }
  state.page.find = {};
  changed();
}

function finder() {
  const modes = [["words", "words in captions"], ["where", "SQL condition"]];
  const [score] = state.about.scores;
  if (state.about.sentence) modes.push(["sentence", "looks like a sentence"]);
  const hints = { words: "e.g. dog beach", where: `e.g. ${score ? `${name(score.name)} > ${short((score.low + score.high) / 2)}` : "width >= 480"}`, sentence: "e.g. a man on a bicycle" };
  const input = h("input", { id: "find", type: "search", placeholder: hints.words, "aria-label": "find", autocomplete: "off", spellcheck: "false" });
  const mode = h("select", { id: "find-mode", "aria-label": "find by", onchange: () => (input.placeholder = hints[mode.value]) }, modes.map(([value, name]) => h("option", { value }, name)));
  const labels = h(
    "select",
    { "aria-label": "label", onchange: (event) => ask({ find: { ...state.page.find, label: event.target.value } }) },
    [["", "any label"], ["good", "good"], ["bad", "bad"], ["any", "labelled"], ["none", "not labelled"]].map(([value, name]) => h("option", { value }, name)),
  );
  return h(
    "form",
    {
      class: "finder",
      onsubmit: (event) => {
        event.preventDefault();
        const found = { ...state.page.find, [mode.value]: input.value.trim() };
        if (mode.value === "sentence") found.like = "";
        ask({ find: found, ...(mode.value === "sentence" && input.value.trim() ? { sort: "like" } : {}) });
        input.value = "";
      },
    },
    mode,
    input,
    h("button", {}, "Find"),
    labels,
  );
}

async function around() {
  const index = state.near;
  let found;
  try {
    found = await post("/api/near", { filters: asked(), index, count: 24, others });
  } catch (error) {
    state.near = null;
    return toast(error.message, true);
  }
  if (state.near !== index) return;
  const side = (name, list, total, kept) =>
    h(
      "div",
      { class: kept ? "side kept" : "side dropped" },
      h("h3", {}, `just ${name}`, h("i", {}, `${kept ? "kept" : "dropped"} · ${count(total)}`)),
      h("div", { class: "tiles", role: "list" }, list.map(tile), list.length ? null : h("p", { class: "message" }, "No clip on this side.")),
    );
  state.rows = [...found.below, ...found.above];
  body.className = "sides";
  body.replaceChildren(
    side("below", found.below, found.count_below, !found.keeps_high),
    side("above", found.above, found.count_above, found.keeps_high),
  );
  more.replaceChildren(
    h("label", {}, h("input", { type: "checkbox", checked: others, onchange: (event) => ((others = event.target.checked), around()) }), " only clips that all other filters keep"),
  );
}

function tile(row) {
  const frame = h("div", { class: "picture" }, picture(row.id));
  const parts = { seconds: h("span", { class: "seconds" }), value: h("span", { class: "value" }), mark: h("span", { class: "mark" }) };
  frame.append(...Object.values(parts));
  const element = h(
    "button",
    { role: "listitem", data: { id: row.id }, onclick: () => tell({ open: row.id }), onpointerenter: () => rest(element), onpointerleave: () => quiet(element) },
    frame,
    h("span", { class: "badges" }),
  );
  element.parts = parts;
  return update(element, row);
}

// What of a tile may change while its picture stays.
function update(element, row) {
  const badges = row.badges.map(([index, isNull]) => {
    const filter = active()[index];
    if (!filter) return null;
    const text = unmet(filter, stepOf(filter), isNull);
    return h("span", { class: "badge", title: text }, text);
  });
  const { seconds, value } = element.parts;
  element.row = row;
  element.className = row.kept ? "tile kept" : "tile dropped";
  element.title = row.caption;
  seconds.textContent = `${row.seconds.toFixed(1)} s`;
  const sorted = state.near !== null || !["id", "random"].includes(state.page.sort);
  value.textContent = row.value !== null && sorted ? short(row.value) : "";
  value.hidden = !value.textContent;
  element.lastChild.replaceChildren(...(badges.length ? badges.filter(Boolean) : [h("span", { class: "caption" }, row.caption)]));
  paint(element);
  return element;
}

function paint(element) {
  const { label, note } = element.row;
  const mark = element.querySelector(".mark");
  mark.className = `mark ${label || ""}`;
  mark.textContent = label === "good" ? "✓" : label === "bad" ? "✗" : note ? "✎" : "";
  mark.title = note || "";
}

let resting;
function rest(element) {
  clearTimeout(resting);
  resting = setTimeout(() => play(element), 400);
}

function play(element) {
  document.querySelectorAll(".tile video").forEach((other) => other.remove());
  const player = h("video", { src: video(element.dataset.id), muted: true, loop: true, autoplay: true, playsInline: true });
  player.addEventListener("playing", () => player.classList.add("on"));
  player.addEventListener("error", () => element.classList.add("unplayable"));
  element.querySelector(".picture").append(player);
}

function quiet(element) {
  clearTimeout(resting);
  element.querySelector("video")?.remove();
}

async function mark(id, name) {
  const change = () => {
    const row = state.rows.find((r) => r.id === id);
    return { label: row?.label === name ? null : name, note: row?.note ?? null };
  };
  try {
    const given = await label(id, change);
    toast(given.label ? `Labelled ${given.label}` : "Label taken back");
  } catch (error) {
    toast(error.message, true);
  }
}

// A new label or note, on the clip's tiles.
function repaint(id, answer) {
  const row = state.rows.find((r) => r.id === id);
  if (row) Object.assign(row, answer);
  document.querySelectorAll(`.tile[data-id="${CSS.escape(id)}"]`).forEach(paint);
}

const tileAt = () => document.activeElement?.closest?.(".tile") || document.querySelector(".tile:hover");

function walk(key) {
  const tiles = [...document.querySelectorAll(".tile")];
  const at = tiles.indexOf(document.activeElement);
  if (!tiles.length) return;
  if (at < 0) return tiles[0].focus();
  const top = tiles[at].offsetTop;
  const columns = Math.max(1, tiles.filter((t) => t.offsetTop === top && t.parentNode === tiles[at].parentNode).length);
  const by = { "←": -1, "→": 1, "↑": -columns, "↓": columns }[key];
  tiles[Math.min(tiles.length - 1, Math.max(0, at + by))].focus();
}
