// Elements, numbers as text, and requests. Text is only ever set as text: nothing here makes markup out of strings.

const SVG = "http://www.w3.org/2000/svg";
const AS_PROPERTY = new Set(["value", "checked", "disabled", "muted", "loop", "autoplay", "playsInline", "textContent", "hidden"]);

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (AS_PROPERTY.has(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
export const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);
export const $ = (selector, root = document) => root.querySelector(selector);

export const count = (n) => Math.round(n).toLocaleString("en-US");
export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
export const percent = (share, digits = 0) => (Number.isFinite(share) ? `${(100 * share).toFixed(digits)}%` : "–");

export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "null";
  const size = Math.abs(value);
  if (size >= 1000) return count(value);
  if (size === 0 || size >= 0.01) return String(Number(value.toPrecision(3)));
  return size >= 0.0001 ? value.toFixed(4) : value.toExponential(1);
}

export function clock(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return hours ? `${hours.toLocaleString("en-US")}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// Hours as a person writes them: 1,234 h, 12.3 h, 4:05 min, 36.4 s.
export function footage(hours) {
  if (hours >= 100) return `${count(hours)} h`;
  if (hours >= 1) return `${hours.toFixed(1)} h`;
  return hours * 3600 >= 60 ? `${clock(hours * 3600)} min` : `${(hours * 3600).toFixed(1)} s`;
}

async function answer(response) {
  const type = response.headers.get("content-type") || "";
  const body = type.startsWith("application/json") ? await response.json() : { error: await response.text() };
  if (!response.ok) throw new Error(body.error || `the server answered ${response.status}`);
  return body;
}

export const get = async (path, query = {}) => answer(await fetch(`${path}?${new URLSearchParams(query)}`));

export async function post(path, body = {}, options = {}) {
  const headers = { "content-type": "application/json", "x-winnow": "1" };
  return answer(await fetch(path, { method: "POST", headers, body: JSON.stringify(body), ...options }));
}

export const still = (clip, which = "middle") => `/api/still?${new URLSearchParams({ clip, which })}`;
export const video = (clip) => `/api/video?${new URLSearchParams({ clip })}`;

const nearby = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      target.src = target.dataset.src;
      nearby.unobserve(target);
    }
  },
  { rootMargin: "160px" },
);

// A still that is fetched when it comes into sight; the browser's own lazy loading begins screens away.
export function picture(clip) {
  const image = h("img", { alt: "", data: { src: still(clip) }, onerror: (event) => event.target.classList.add("none") });
  nearby.observe(image);
  return image;
}

export const dialogHead = (dialog, title) => h("header", {}, h("h2", {}, title), h("span", { class: "spacer" }), h("button", { title: "close (Esc)", onclick: () => dialog.close() }, "×"));

let fading;
export function toast(text, bad = false) {
  const box = $("#toast");
  box.textContent = text;
  box.className = bad ? "shown bad" : "shown";
  clearTimeout(fading);
  fading = setTimeout(() => (box.className = ""), bad ? 6000 : 2500);
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { value: text });
    (document.querySelector("dialog[open]") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied");
}
