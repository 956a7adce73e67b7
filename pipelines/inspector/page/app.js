// The page: read what there is, draw it, and follow the dataset while a job writes to it.

import { $, get, h, toast } from "./dom.js";
import { open } from "./clip.js";
import * as grid from "./grid.js";
import { help, listenToKeys, theme } from "./keys.js";
import { facts, funnel, headline } from "./overview.js";
import { changed, listen, restore, state } from "./state.js";
import { agreement, take } from "./take.js";
import * as charts from "./thresholds.js";

const bar = $("#bar");
const main = $("#main");
const stored = localStorage.getItem("winnow-theme");
if (stored) document.documentElement.dataset.theme = stored;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
let shape = "";

async function load() {
  let about = await get("/api/start");
  for (let waited = 0; about.state === "loading"; waited += 0.15) {
    const message = $("#main > .message");
    if (message && waited > 1) message.textContent = `Reading the clips … ${Math.round(waited)} s`;
    await wait(150);
    about = await get("/api/start");
  }
  bar.replaceChildren();
  document.title = `${about.name || "Winnow"} · Winnow`;
  if (about.state === "wrong") return wrong("This dataset cannot be shown", about.wrong);
  state.about = about;
  if (!about.clips) return empty(about);
  state.filters = restore() || (state.view && state.filters) || about.filters.map((f) => ({ ...f }));
  state.view = null;
  state.stamps = {};
  head();
  const left = h("div", { class: "pane left" }, h("div", { id: "account" }), charts.thresholds(), facts());
  main.className = "panes";
  main.replaceChildren(left, h("div", { class: "pane right" }, grid.grid()));
  shape = "";
  changed();
}

function head() {
  const { about } = state;
  bar.replaceChildren(
    h("span", { class: "brand", title: about.path }, h("b", {}, "winnow"), h("span", { id: "name" }, about.name)),
    h("span", { id: "headline" }),
    h("span", { class: "spacer" }),
    h("button", { id: "news", hidden: true, onclick: load }, "The dataset has changed · refresh"),
    h("button", { id: "labels-button", title: "labels and filters (l)", onclick: agreement }, "Labels"),
    h("button", { id: "take-button", class: "primary", title: "command, YAML, run (t)", onclick: take }, "Take away"),
    h("button", { title: "light or dark (m)", "aria-label": "light or dark", onclick: theme }, "◐"),
    h("button", { title: "keyboard (?)", "aria-label": "keyboard", onclick: help }, "?"),
  );
}

function wrong(title, text) {
  main.className = "";
  main.replaceChildren(h("div", { class: "message" }, h("h1", {}, title), h("p", { id: "wrong" }, text), h("p", { class: "hint" }, "The page looks again by itself."), h("button", { onclick: load }, "Look again")));
}

function empty(about) {
  wrong("There are no clips yet", about.empty || "No clip was found in these videos.");
  main.append(h("div", { class: "pane" }, facts()));
}

listen((what) => {
  if (what.open) return open(what.open);
  if (!state.view) return;
  if (what !== "histograms" && what !== "near") {
    if (what === "view") $("#headline").replaceChildren(...headline());
    // Keep the control that has the focus: rows are made anew when a filter comes, goes or is answered.
    const next = JSON.stringify([state.filters, state.view.funnel, state.page.only]);
    if (next !== shape) $("#account").replaceChildren(funnel());
    shape = next;
  }
  charts.draw();
  if (what === "view" || what === "near") grid.draw();
});

async function follow() {
  for (;;) {
    await wait(4000);
    if (document.hidden) continue;
    try {
      const now = await get("/api/changes");
      const news = $("#news");
      if (now.changed && (!state.about?.clips || now.state === "wrong")) await load();
      else if (news) news.hidden = !now.changed;
    } catch {
      toast("The server does not answer: start `winnow inspect` again", true);
    }
  }
}

listenToKeys(load);
load().catch((error) => wrong("This dataset cannot be shown", error.message));
follow();
