// A histogram per score, kept and dropped, with a handle at either end. A handle that rests at the edge is no filter yet.

import { count, get, h, picture, plural, s, short } from "./dom.js";
import { columnOf, keepsHigh, LENGTH, lengthSql, remove, threshold } from "./filters.js";
import { changed, remember, state, stepOf, tell, wish } from "./state.js";

export const keys = [
  ["y", "bars: linear or square root", () => scale()],
  ["on a handle", "← → move, shift: faster, % percentile, enter: type, delete: remove", null],
];

const WIDTH = 480;
const HEIGHT = 84;
const cards = new Map();
let linear = localStorage.getItem("winnow-linear") === "1";

export function mount(root) {
  const asked = state.filters.map((f) => columnOf(f));
  const scores = [...state.about.scores].sort((a, b) => asked.includes(b.name) - asked.includes(a.name));
  cards.clear();
  state.visible.clear();
  const watcher = new IntersectionObserver(seen, { rootMargin: "120px" });
  const list = scores.map((score) => {
    const card = new Card(score);
    cards.set(score.name, card);
    watcher.observe(card.element);
    return card.element;
  });
  for (const score of scores.slice(0, 3)) state.visible.add(score.name); // in sight at once: no need to wait for the observer
  const nothing = state.about.nothing.map((row) => h("li", {}, h("b", {}, row.name), ` ${row.why}`));
  root.replaceChildren(
    h(
      "h2",
      {},
      "Thresholds",
      h("span", { class: "legend" }, h("span", { class: "swatch kept" }), "kept", h("span", { class: "swatch dropped" }), "dropped"),
      h("span", { class: "spacer" }),
      h("button", { class: "quiet", id: "scale", title: "height of the bars (y)", onclick: scale }, linear ? "linear" : "√ scale"),
    ),
    h("div", { class: "histograms" }, list),
    ...(nothing.length ? [h("details", { class: "nothing" }, h("summary", {}, `${plural(nothing.length, "score")} without a histogram`), h("ul", {}, nothing))] : []),
  );
}

function scale() {
  linear = !linear;
  localStorage.setItem("winnow-linear", linear ? "1" : "0");
  document.querySelector("#scale").textContent = linear ? "linear" : "√ scale";
  cards.forEach((card) => card.draw());
}

export function draw(event) {
  if (state.view && typeof event === "string") cards.forEach((card) => card.draw());
}

function seen(entries) {
  for (const entry of entries) {
    const card = cards.get(entry.target.dataset.score);
    if (!card) continue;
    if (entry.isIntersecting) {
      state.visible.add(card.score.name);
      card.stills();
    } else state.visible.delete(card.score.name);
  }
  if (state.view) wish();
}

class Card {
  constructor(score) {
    this.score = score;
    this.dropped = s("path", { class: "dropped" });
    this.kept = s("path", { class: "kept" });
    this.handles = { low: new Handle(this, "low"), high: new Handle(this, "high") };
    this.others = s("g", { class: "others" });
    this.strip = h("div", { class: "strip" });
    const chart = s(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `histogram of ${score.name}` },
      this.dropped,
      this.kept,
      this.others,
    );
    this.chart = h("div", { class: "chart" }, chart, this.handles.low.element, this.handles.high.element);
    const note = [score.unit, score.nulls ? `${count(score.nulls)} null` : ""].filter(Boolean).join(" · ");
    const beyond = (at, mark, text) => (at ? `${mark} ${text}` : text);
    this.element = h(
      "article",
      { class: "histogram", data: { score: score.name } },
      h("h3", { title: [score.formula, score.range && `range ${score.range}`, score.source].filter(Boolean).join("\n") }, score.name, h("i", {}, note)),
      this.chart,
      h("div", { class: "axis" }, h("span", {}, beyond(score.min < score.low, "≤", short(Math.max(score.low, score.min)))), h("span", {}, beyond(score.max > score.high, "≥", short(Math.min(score.high, score.max))))),
      this.strip,
    );
  }

  // Whole numbers have a bin each, and a threshold lies between two of them.
  get whole() {
    return this.score.whole && this.score.counts.length === Math.round(this.score.high - this.score.low);
  }

  filter(side) {
    return state.filters.find((f) => !f.off && columnOf(f) === this.score.name && keepsHigh(f) === (side === "low"));
  }

  place(value, side) {
    const edge = this.whole ? value + (side === "low" ? -0.5 : 0.5) : value;
    return Math.min(1, Math.max(0, (edge - this.score.low) / (this.score.high - this.score.low)));
  }

  value(place, side) {
    const raw = this.score.low + place * (this.score.high - this.score.low);
    if (this.whole) return Math.round(side === "low" ? raw + 0.5 : raw - 0.5);
    const digits = Math.max(0, Math.min(8, 2 - Math.floor(Math.log10(this.score.high - this.score.low))));
    return Number(raw.toFixed(digits));
  }

  // Share of the clips with a score that lie below a place, in percent.
  below(place) {
    const { counts } = this.score;
    const at = place * counts.length;
    let sum = 0;
    counts.forEach((n, i) => (sum += n * Math.min(1, Math.max(0, at - i))));
    return (100 * sum) / counts.reduce((a, b) => a + b, 0);
  }

  async stills() {
    if (this.asked) return;
    this.asked = true;
    const clips = state.about.strips?.[this.score.name] || (await get("/api/strip", { column: this.score.name })).clips;
    this.strip.replaceChildren(
      ...clips.map((clip) =>
        clip ? h("button", { title: "open this clip", onclick: () => tell({ open: clip }) }, picture(clip)) : h("span", {}),
      ),
    );
  }

  draw() {
    const all = this.score.counts;
    const kept = state.kept[this.score.name] || all.map(() => 0);
    const size = linear ? (n) => n : Math.sqrt;
    const most = size(Math.max(...all)) || 1;
    this.dropped.setAttribute("d", outline(all.map((n) => size(n) / most)));
    this.kept.setAttribute("d", outline(kept.map((n) => size(n) / most)));
    this.handles.low.draw();
    this.handles.high.draw();
    const shown = [this.filter("low"), this.filter("high")];
    const more = state.filters.filter((f) => !f.off && columnOf(f) === this.score.name && !shown.includes(f));
    this.others.replaceChildren(
      ...more.map((f) => {
        const step = stepOf(f);
        const x = step?.threshold === null || !step ? 0 : WIDTH * this.place(step.threshold, keepsHigh(f) ? "low" : "high");
        return s("line", { x1: x, x2: x, y1: 0, y2: HEIGHT });
      }),
    );
    this.element.classList.toggle("filtered", shown.some(Boolean));
  }
}

function outline(heights) {
  const step = WIDTH / heights.length;
  let path = `M0 ${HEIGHT}`;
  heights.forEach((height, i) => {
    const y = (HEIGHT * (1 - 0.97 * height)).toFixed(1);
    path += `V${y}H${((i + 1) * step).toFixed(1)}`;
  });
  return `${path}V${HEIGHT}Z`;
}

class Handle {
  constructor(card, side) {
    this.card = card;
    this.side = side;
    this.tag = h("button", { class: "tag", tabindex: "-1", title: "type a number", onclick: () => this.type() });
    this.mode = h("button", { class: "mode", tabindex: "-1", onclick: () => this.switch() });
    this.off = h("button", { class: "off", tabindex: "-1", title: "remove this filter", onclick: () => remove(this.filter) }, "×");
    this.grip = h("span", {
      class: "grip",
      role: "slider",
      tabindex: "0",
      "aria-label": `${side === "low" ? "lowest" : "highest"} ${card.score.name} kept`,
      onpointerdown: (event) => this.down(event),
      onpointermove: (event) => this.move(event),
      onpointerup: (event) => this.up(event),
      onpointercancel: (event) => this.up(event),
      onkeydown: (event) => this.key(event),
      ondblclick: () => this.filter && remove(this.filter),
    });
    this.element = h("div", { class: `handle ${side}` }, this.grip, h("span", { class: "flag" }, this.tag, this.mode, this.off));
  }

  get filter() {
    return this.card.filter(this.side);
  }

  get place() {
    if (this.dragging !== undefined) return this.dragging;
    const filter = this.filter;
    if (!filter) return this.side === "low" ? 0 : 1;
    const step = stepOf(filter);
    const at = filter.kind === "min" || filter.kind === "max" ? filter.amount : filter.kind === "where" ? Number(LENGTH.exec(filter.sql)[2]) : step?.threshold;
    return at === null || at === undefined ? (this.side === "low" ? 0 : 1) : this.card.place(at, this.side);
  }

  draw() {
    const { filter } = this;
    const place = this.place;
    this.element.style.left = `${100 * place}%`;
    this.element.classList.toggle("resting", !filter);
    this.element.classList.toggle("flip", place > 0.72 || (this.side === "high" && place > 0.3));
    this.grip.setAttribute("aria-valuemin", this.card.score.low);
    this.grip.setAttribute("aria-valuemax", this.card.score.high);
    if (!filter) {
      this.grip.removeAttribute("aria-valuenow");
      this.grip.setAttribute("aria-valuetext", "no filter");
      return;
    }
    const step = stepOf(filter);
    const at = step?.threshold ?? filter.amount;
    const percentile = filter.kind.startsWith("drop");
    const text = `${this.side === "low" ? "≥" : "≤"} ${short(percentile ? at : filter.kind === "where" ? Number(LENGTH.exec(filter.sql)[2]) : filter.amount)}`;
    this.tag.textContent = step?.error ? "not applied" : percentile ? `${filter.amount}% · ${text}` : text;
    this.tag.title = step?.error || "type a number";
    this.mode.textContent = percentile ? "value" : "%";
    this.mode.title = percentile ? "as an absolute value" : "as a percentile of all clips";
    this.mode.hidden = filter.kind === "where";
    this.grip.setAttribute("aria-valuenow", at);
    this.grip.setAttribute("aria-valuetext", this.tag.textContent);
  }

  down(event) {
    if (event.button) return;
    event.preventDefault();
    this.grip.focus();
    this.grip.setPointerCapture(event.pointerId);
    this.box = this.card.chart.getBoundingClientRect();
    this.shift = event.clientX - (this.box.left + this.place * this.box.width);
    this.from = event.clientX;
    this.dragging = this.place;
    remember();
  }

  move(event) {
    if (this.dragging === undefined || (event.clientX === this.from && !this.moved)) return;
    this.moved = true;
    this.set(Math.min(1, Math.max(0, (event.clientX - this.shift - this.box.left) / this.box.width)));
  }

  up(event) {
    if (this.dragging === undefined) return;
    this.grip.releasePointerCapture(event.pointerId);
    this.dragging = undefined;
    this.moved = false;
    this.card.draw();
  }

  // Put the filter where the hand is; at the edge there is none.
  set(place) {
    if (this.dragging !== undefined) this.dragging = place;
    let { filter } = this;
    const edge = this.side === "low" ? place <= 0 : place >= 1;
    if (edge) {
      if (filter) state.filters = state.filters.filter((f) => f !== filter);
    } else {
      if (!filter) {
        filter = this.fresh();
        state.filters.push(filter);
      }
      if (filter.kind.startsWith("drop")) {
        const below = this.card.below(place);
        filter.amount = Math.min(99.9, Math.max(0.1, Number((this.side === "low" ? below : 100 - below).toFixed(1))));
      } else this.put(filter, this.card.value(place, this.side));
    }
    this.draw();
    changed();
  }

  fresh() {
    return threshold(this.card.score.name, this.side === "low", 0);
  }

  put(filter, value) {
    if (filter.kind === "where") filter.sql = lengthSql(this.side === "low", Math.max(0, value));
    else filter.amount = value;
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
    if (event.key === "Delete" || event.key === "Backspace") {
      if (this.filter) remove(this.filter);
    } else if (event.key in steps) {
      remember();
      this.set(Math.min(1, Math.max(0, this.place + (steps[event.key] * (event.shiftKey ? 5 : 1)) / (this.card.whole ? this.card.score.counts.length : 200))));
    } else if (event.key === "Enter") this.type();
    else if (event.key === "%") this.switch();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  type() {
    const { filter } = this;
    const now = filter ? (filter.kind === "where" ? LENGTH.exec(filter.sql)[2] : filter.amount) : "";
    const input = h("input", { class: "typed", value: now, "aria-label": "threshold", size: 7 });
    let ended = false; // removing it blurs it too
    const end = (store) => {
      if (ended) return;
      ended = true;
      const value = Number(input.value.trim().replace(/%$/, ""));
      input.remove();
      if (!store || input.value.trim() === "" || !Number.isFinite(value)) return;
      remember();
      const chosen = filter || this.fresh();
      if (!filter) state.filters.push(chosen);
      if (chosen.kind.startsWith("drop")) chosen.amount = Math.min(99.9, Math.max(0.1, value));
      else this.put(chosen, value);
      changed();
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") end(false);
    });
    input.addEventListener("blur", () => end(true));
    this.element.append(input);
    input.focus();
    input.select();
  }

  // Between a value and the percentile that it is now.
  switch() {
    const { filter } = this;
    const step = filter && stepOf(filter);
    if (!step || step.error || filter.kind === "where") return;
    remember();
    const low = this.side === "low";
    if (filter.kind.startsWith("drop")) {
      filter.kind = low ? "min" : "max";
      filter.amount = Number(step.threshold.toPrecision(5));
    } else {
      const scored = state.about.clips - step.null;
      filter.kind = low ? "drop_bottom" : "drop_top";
      filter.amount = Math.min(99.9, Math.max(0.1, Number(((100 * step.failing) / scored).toFixed(1))));
    }
    changed();
  }
}
