// One clip: player, stills, scores with their standing, captions, errors, and its place in the whole film.

import { $, clock, count, h, percent, plural, post, s, short, still, toast, video } from "./dom.js";
import { unmet } from "./filters.js";
import { answered, label } from "./labelling.js";
import { active, ask, asked, like, state, stepOf } from "./state.js";

let dialog = null;
let current = null;

export function mount(root) {
  if (root !== dialog) root.addEventListener("close", closed);
  dialog = root;
}

export function draw(event) {
  if (event.open) open(event.open);
  if (current && event.labelled === current.id) Object.assign(current, event.answer);
}

export const inside = [
  ["← →", "from clip to clip", (key, event) => (event.target.closest?.("video") ? false : step(key === "→" ? 1 : -1))],
  ["g b", "label the clip good or bad", (key) => toggleLabel(key === "g" ? "good" : "bad")],
  ["space", "play the clip", (key, event) => (event.target.closest?.("button, video") ? false : toggle())],
];

async function open(id) {
  const stepping = dialog.open;
  let clip;
  try {
    await answered();
    clip = await post("/api/clip", { filters: asked(), clip: id });
  } catch (error) {
    return toast(error.message, true);
  }
  if (stepping && !dialog.open) return; // closed while it was asked for
  current = clip;
  const note = h("input", { id: "note", value: clip.note || "", placeholder: "note", "aria-label": "note", maxlength: 2000, onchange: () => mark((now) => ({ label: now.label, note: note.value || null })) });
  const strip = h("div", { class: "film" }, h("p", { class: "hint" }, "…"));
  dialog.replaceChildren(
    h(
      "header",
      {},
      h("button", { title: "previous (←)", onclick: () => step(-1) }, "←"),
      h("button", { title: "next (→)", onclick: () => step(1) }, "→"),
      h("h2", {}, h("span", { class: clip.kept ? "verdict kept" : "verdict dropped" }, clip.kept ? "kept" : "dropped"), h("code", {}, clip.id)),
      h("span", { class: "spacer" }),
      h("span", { class: "labels" }, ["good", "bad"].map((name) => h("button", { class: clip.label === name ? `${name} on` : name, data: { label: name }, title: `${name} (${name[0]})`, onclick: () => toggleLabel(name) }, name)), note),
      h("button", { title: "close (Esc)", autofocus: true, onclick: () => dialog.close() }, "×"),
    ),
    h("div", { class: "body" }, h("div", { class: "left" }, player(clip), stills(clip), captions(clip), errors(clip)), h("div", { class: "right" }, verdicts(clip), scores(clip), others(clip), facts(clip))),
    strip,
  );
  if (!dialog.open) dialog.showModal();
  try {
    const film = await post("/api/film", { filters: asked(), clip: id });
    if (current === clip) strip.replaceChildren(...filmStrip(film, clip));
  } catch (error) {
    strip.replaceChildren(h("p", { class: "hint" }, error.message));
  }
}

function closed() {
  current = null;
  dialog.replaceChildren();
}

function step(by) {
  const at = state.rows.findIndex((row) => row.id === current?.id);
  const next = state.rows[at + by];
  if (at >= 0 && next) open(next.id);
}

async function mark(change) {
  const clip = current;
  if (!clip) return;
  try {
    Object.assign(clip, await label(clip.id, () => change(clip)));
  } catch (error) {
    return toast(error.message, true);
  }
  if (current === clip) for (const button of dialog.querySelectorAll("[data-label]")) button.classList.toggle("on", button.dataset.label === clip.label);
}

function toggleLabel(name) {
  const note = $("#note")?.value || null;
  return mark((now) => ({ label: now.label === name ? null : name, note }));
}

function toggle() {
  const player = $("video", dialog);
  if (player) player.paused ? player.play() : player.pause();
}

function player(clip) {
  const element = h("video", { id: "player", src: video(clip.id), poster: still(clip.id), controls: true, muted: true, loop: true, autoplay: true, playsInline: true });
  const why = h("p", { class: "hint" });
  element.addEventListener("error", async () => {
    const response = await fetch(video(clip.id));
    if (!response.ok) why.textContent = (await response.json()).error;
    else why.textContent = "the browser cannot play these bytes";
  });
  return h("figure", { class: "player" }, element, why);
}

const stills = (clip) =>
  h("div", { class: "three" }, clip.stills.map((which) => h("figure", {}, h("img", { src: still(clip.id, which), alt: `${which} still` }), h("figcaption", {}, which))));

function captions(clip) {
  const rows = clip.captions.map((c) =>
    h("tr", { title: [c.formula, c.source].filter(Boolean).join("\n") }, h("th", {}, c.name.replace("caption_", "")), h("td", { class: c.text === null ? "null" : "" }, c.text === null ? "none" : c.text), h("td", { class: "number" }, c.similarity === null ? "" : short(c.similarity))),
  );
  return h(
    "section",
    {},
    h("h3", {}, "Captions", h("i", {}, "similarity")),
    h("table", { class: "captions" }, rows),
    clip.merged_from ? h("p", { class: "hint" }, `merged: ${clip.merged_from}`) : null,
  );
}

const errors = (clip) =>
  clip.errors.length ? h("section", {}, h("h3", {}, "Errors"), h("ul", { class: "errors" }, clip.errors.map(([stage, reason]) => h("li", {}, h("b", {}, stage), ` ${reason}`)))) : null;

function verdicts(clip) {
  const lines = clip.badges.map(([index, isNull]) => {
    const filter = active()[index];
    return filter && h("span", { class: "badge" }, unmet(filter, stepOf(filter), isNull));
  });
  return h(
    "p",
    { class: "verdicts" },
    lines.length ? lines : h("span", { class: "hint" }, active().length ? "passes every filter" : "no filters"),
    state.about.likeness ? h("button", { class: "quiet", onclick: () => (dialog.close(), like(clip.id)) }, "clips like this one") : null,
    clip.group ? h("button", { class: "quiet", onclick: () => (dialog.close(), ask({ show: "all", only: null, find: { group: String(clip.group[1]) } })) }, "its duplicates") : null,
  );
}

function scores(clip) {
  const rows = clip.scores.map((score) =>
    h(
      "tr",
      { class: score.value === null ? "null" : "" },
      h("th", {}, score.name, score.unit ? h("i", {}, score.unit) : null, h("small", {}, [score.formula, score.range && `range ${score.range}`, score.source].filter(Boolean).join(" · "))),
      h("td", { class: "number" }, short(score.value)),
      h("td", { class: "spread" }, spread(score)),
      h("td", { class: "number" }, score.standing === null ? "" : percent(score.standing)),
    ),
  );
  return h("section", { class: "scores" }, h("h3", {}, "Scores", h("i", {}, "standing: share of the clips that lie below")), h("table", {}, rows));
}

// What stages found that is no number: texts, yes and no.
function others(clip) {
  const known = clip.others.filter((column) => column.value !== null);
  if (!known.length) return null;
  const row = (column) => h("tr", { title: [column.formula, column.source].filter(Boolean).join("\n") }, h("th", {}, column.name), h("td", {}, String(column.value), column.unit ? h("i", {}, ` ${column.unit}`) : null));
  return h("section", {}, h("h3", {}, "Other columns"), h("table", { class: "facts" }, known.map(row)));
}

// The distribution of a score, with a mark where the clip stands.
function spread(score) {
  const axis = state.about.scores.find((a) => a.name === score.name);
  if (!axis || score.value === null) return "";
  const most = Math.sqrt(Math.max(...axis.counts));
  const path = axis.counts.map((n, i) => `M${(100 * i) / axis.counts.length} 16V${(16 - (15 * Math.sqrt(n)) / most).toFixed(1)}H${(100 * (i + 1)) / axis.counts.length}V16`).join("");
  const x = 100 * Math.min(1, Math.max(0, (score.value - axis.low) / (axis.high - axis.low)));
  return s("svg", { viewBox: "0 0 100 16", preserveAspectRatio: "none" }, s("path", { d: path }), s("line", { x1: x, x2: x, y1: 0, y2: 16 }));
}

function facts(clip) {
  const { row, facts: file } = clip;
  const rows = [
    ["source", clip.path],
    ["frames", `${count(row.start_frame)} to ${count(row.end_frame)} (${plural(row.num_frames, "frame")})`],
    ["time", `${row.start_time?.toFixed(3)} to ${row.end_time?.toFixed(3)} s, of the shot ${row.shot_start_time?.toFixed(3)} to ${row.shot_end_time?.toFixed(3)} s`],
    ["picture", `${row.width} × ${row.height}, ${short(row.fps)} fps`],
    ...["source_columns", "cut", "video_codec"].filter((name) => row[name]).map((name) => [name, row[name]]),
    ...Object.entries(file).filter(([, value]) => value !== null && value !== false && value !== 0).map(([name, value]) => [`file: ${name}`, String(value)]),
  ];
  return h("section", {}, h("h3", {}, "Source"), h("table", { class: "facts" }, rows.map(([name, value]) => h("tr", {}, h("th", {}, name), h("td", {}, value)))));
}

function filmStrip(film, clip) {
  const length = film.end - film.start || 1;
  const at = (time) => `${(100 * (time - film.start)) / length}%`;
  const span = (start, end) => ({ left: at(start), width: `${(100 * (end - start)) / length}%` });
  const shots = [...new Map(film.clips.map((c) => [c.shot.join(), c.shot])).values()];
  const pictures = pickPictures(film, length).map((c) => h("button", { class: c.id === clip.id ? "frame here" : "frame", style: { left: at((c.start + c.end) / 2) }, onclick: () => open(c.id), tabindex: "-1" }, h("img", { src: still(c.id), alt: "", loading: "lazy" })));
  const lines = [
    ["stills", h("div", { class: "frames" }, pictures)],
    ["shots", h("div", { class: "lane shots" }, shots.map(([start, end]) => h("span", { style: span(start, end), title: `shot ${start.toFixed(2)} to ${end.toFixed(2)} s` })), film.transitions.map((gap) => h("i", { class: gap.end > gap.start ? "gradual" : "cut", style: span(gap.start, gap.end), title: `${gap.kind || "cut"} ${gap.start.toFixed(2)} s` })))],
    ["clips", h("div", { class: "lane clips" }, film.clips.map((c) => h("button", { class: `${c.kept ? "kept" : "dropped"}${c.id === clip.id ? " here" : ""}`, style: span(c.start, c.end), tabindex: "-1", title: `${c.start.toFixed(2)} to ${c.end.toFixed(2)} s, ${c.kept ? "kept" : `dropped: ${c.badges.map((i) => active()[i] && unmet(active()[i], stepOf(active()[i]))).join(", ")}`}`, onclick: () => open(c.id) })))],
    ...film.lanes.map((lane) => [lane.name, measured(lane, film.start, length)]),
  ];
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => h("span", { style: { left: `${100 * share}%` } }, clock(film.start + share * length)));
  return [
    h("h3", {}, "Its place in the source", h("i", {}, `${plural(film.clips.length, "clip")}, ${plural(film.transitions.length, "transition")}, ${clock(length)}`)),
    ...lines.map(([name, lane]) => h("div", { class: "row" }, h("span", { class: "name" }, name), lane)),
    h("div", { class: "row" }, h("span", { class: "name" }), h("div", { class: "ticks" }, ticks)),
  ];
}

// What was measured along the film, as a line from 0 up to its highest value.
function measured(lane, start, length) {
  const top = Math.max(...lane.values.filter((value) => value !== null), 1e-9);
  const point = (time, i) => (lane.values[i] === null ? null : `${((1000 * (time - start)) / length).toFixed(2)},${(40 * (1 - lane.values[i] / top)).toFixed(2)}`);
  const points = lane.times.map(point).filter(Boolean).join(" ");
  return h("div", { class: "lane flow", data: { lane: lane.name }, title: [`up to ${short(top)} ${lane.unit}`.trim(), lane.formula].join("\n") }, s("svg", { viewBox: "0 0 1000 40", preserveAspectRatio: "none" }, s("polyline", { points })));
}

// As many stills as fit side by side, this clip's among them.
function pickPictures(film, length) {
  const room = 14;
  const taken = new Map();
  for (const c of film.clips) {
    const slot = Math.floor((room * ((c.start + c.end) / 2 - film.start)) / length);
    const now = taken.get(slot);
    if (!now || c.id === current?.id || (now.id !== current?.id && c.end - c.start > now.end - now.start)) taken.set(slot, c);
  }
  return [...taken.values()];
}
