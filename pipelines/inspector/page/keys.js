// Keyboard shortcuts, and the sheet that lists them.

import { $, h } from "./dom.js";
import * as clip from "./clip.js";
import { ask, label, play, shuffle, turn } from "./grid.js";
import { near } from "./overview.js";
import { active, state, stepOf, undo } from "./state.js";
import { agreement, take } from "./take.js";
import { scale } from "./thresholds.js";

const sheet = $("#keys");
let refresh = () => {};

export function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("winnow-theme", next);
}

const KEYS = [
  ["?", "this sheet", () => help()],
  ["k d a", "kept, dropped, all clips", null],
  ["n", "just below and just above a threshold; again: the next filter's", nextNear],
  ["r", "a random sample, another each time", () => shuffle()],
  ["v", "turn the order round", () => turn()],
  ["/", "find", () => $("#find").focus()],
  ["← → ↑ ↓", "from clip to clip", null],
  ["space", "play the clip", null],
  ["enter", "open the clip", null],
  ["g b", "label the clip good or bad", null],
  ["l", "labels, and how filters agree with them", () => agreement()],
  ["t", "take the selection away: command, YAML, run", () => take()],
  ["u U", "undo, redo a change of the filters", null],
  ["y", "bars: linear or square root", () => scale()],
  ["m", "light or dark", () => theme()],
  ["R", "read the dataset again", () => refresh()],
  ["on a handle", "← → move, shift: faster, % percentile, enter: type, delete: remove", null],
];
const PLAIN = {
  k: () => ask({ show: "kept", only: null }),
  d: () => ask({ show: "dropped", only: null }),
  a: () => ask({ show: "all", only: null }),
  u: () => undo(),
  U: () => undo(false),
};

export function help() {
  sheet.replaceChildren(
    h("header", {}, h("h2", {}, "Keyboard"), h("span", { class: "spacer" }), h("button", { title: "close (Esc)", onclick: () => sheet.close() }, "×")),
    h("table", {}, KEYS.map(([keys, what]) => h("tr", {}, h("td", {}, keys.split(" ").length > 3 || keys.startsWith("on ") ? h("span", {}, keys) : keys.split(" ").map((key) => h("kbd", {}, key))), h("td", {}, what)))),
  );
  if (!sheet.open) sheet.showModal();
}

function nextNear() {
  const all = active().map((f, i) => [f, i]).filter(([f]) => stepOf(f)?.column && stepOf(f).threshold !== null);
  if (!all.length) return;
  const at = all.findIndex(([, i]) => i === state.near);
  if (state.near === null) near(all[0][1]);
  else if (at + 1 < all.length) near(all[at + 1][1]);
  else near(state.near);
}

const tileAt = () => document.activeElement?.closest?.(".tile") || document.querySelector(".tile:hover");

function walk(key) {
  const tiles = [...document.querySelectorAll(".tile")];
  const at = tiles.indexOf(document.activeElement);
  if (!tiles.length) return;
  if (at < 0) return tiles[0].focus();
  const top = tiles[at].offsetTop;
  const columns = Math.max(1, tiles.filter((t) => t.offsetTop === top && t.parentNode === tiles[at].parentNode).length);
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  tiles[Math.min(tiles.length - 1, Math.max(0, at + by))].focus();
}

export function listenToKeys(onRefresh) {
  refresh = onRefresh;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select");
    if (event.key === "Escape" && typing && !document.querySelector("dialog[open]")) return event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !state.about?.clips) return;
    if (clip.isOpen()) return inClip(event);
    if (document.querySelector("dialog[open]")) return;
    if (event.key.startsWith("Arrow")) walk(event.key);
    else if (event.key === " " && tileAt()) play(tileAt());
    else if ((event.key === "g" || event.key === "b") && tileAt()) label(tileAt().dataset.id, event.key === "g" ? "good" : "bad");
    else if (event.key in PLAIN) PLAIN[event.key]();
    else {
      const found = KEYS.find(([keys, , run]) => run && keys === event.key);
      if (!found) return;
      found[2]();
    }
    event.preventDefault();
  });
}

function inClip(event) {
  const video = event.target.closest?.("video");
  if (event.key === "ArrowLeft" && !video) clip.step(-1);
  else if (event.key === "ArrowRight" && !video) clip.step(1);
  else if (event.key === "g" || event.key === "b") clip.toggleLabel(event.key === "g" ? "good" : "bad");
  else if (event.key === " " && !event.target.closest?.("button, video")) clip.toggle();
  else if (event.key === "?") help();
  else return;
  event.preventDefault();
}
