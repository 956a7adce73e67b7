// Keyboard shortcuts: those of the page and of every panel, and the sheet that lists them.

import { $, dialogHead, h } from "./dom.js";
import { state } from "./state.js";

const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "space" };
const sheet = $("#keys");
let shown = [];

export function help() {
  const names = (keys) => (keys.split(" ").length > 3 || keys.startsWith("on ") ? h("span", {}, keys) : keys.split(" ").map((key) => h("kbd", {}, key)));
  sheet.replaceChildren(dialogHead(sheet, "Keyboard"), h("table", {}, shown.map(([keys, what]) => h("tr", {}, h("td", {}, names(keys)), h("td", {}, what)))));
  if (!sheet.open) sheet.showModal();
}

// panels: {root, module}; own: the page's rows, as a panel's `keys`.
export function listenToKeys(panels, own) {
  const first = ["?", "this sheet", help];
  const all = [first, ...panels.flatMap(({ module }) => module.keys || []), ...own];
  shown = all;
  document.addEventListener("keydown", (event) => {
    const dialog = $("dialog[open]");
    const typing = event.target.closest?.("input, textarea, select");
    if (event.key === "Escape" && typing && !dialog) return event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !state.about?.clips) return;
    const inside = dialog && panels.find(({ root }) => root === dialog)?.module.inside;
    const rows = dialog ? (inside ? [...inside, first] : []) : all;
    const key = NAMES[event.key] || event.key;
    const row = rows.find(([keys, , run]) => run && keys.split(" ").includes(key));
    if (row && row[2](key, event) !== false) event.preventDefault();
  });
}
