// What a reader sees of the page. Colours are read back from a canvas, whatever notation the style has them in.

const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

// The style does not change while a question is answered, and many elements share an answer.
function remembered(f) {
  const known = new Map();
  return (key) => known.has(key) ? known.get(key) : known.set(key, f(key)).get(key);
}

const rgba = remembered((colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
});

function over(top, below) {
  return [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]).concat(1);
}

function luminance(colour) {
  const linear = colour.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

// WCAG 2: from 1 to 21.
function contrast(a, b) {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

const ground = remembered((element) => {
  if (!element) {
    const night = matchMedia("(prefers-color-scheme: dark)").matches;
    return night && getComputedStyle(document.documentElement).colorScheme.includes("dark") ? [18, 18, 18, 1] : [255, 255, 255, 1];
  }
  const own = rgba(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own : over(own, ground(element.parentElement));
});

const opacity = remembered((element) =>
  element ? Number(getComputedStyle(element).opacity) * opacity(element.parentElement) : 1);

function visible(element) {
  if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) return false;
  const box = element.getBoundingClientRect();
  return box.width > 1 && box.height > 1;
}

// What a figure draws around its words, which may lie on anything; without it they count as not to be read.
function halo(style) {
  return style.paintOrder.startsWith("stroke") && parseFloat(style.strokeWidth) >= 2 ? rgba(style.stroke) : rgba(style.fill);
}

// Elements with words of their own that have less contrast to what is behind them: [contrast, element, words].
function faint(least) {
  const found = [];
  for (const element of document.body.querySelectorAll("*:not(script, style, title, noscript)")) {
    const words = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join(" ").trim();
    if (!words || !visible(element)) continue;
    const style = getComputedStyle(element);
    const colour = rgba(element instanceof SVGElement ? style.fill : style.color);
    colour[3] *= opacity(element);
    const behind = element instanceof SVGElement ? halo(style) : ground(element);
    const ratio = contrast(over(colour, behind), behind);
    if (ratio < least) found.push([Math.round(100 * ratio) / 100, `${element.tagName}.${element.getAttribute("class")}`, words.slice(0, 60)]);
  }
  return found;
}

function words() {
  return [...document.body.querySelectorAll("*")].filter(visible).length;
}

// Pictures that cannot be seen.
function invisibleFigures() {
  const hidden = (element) => !visible(element) && !element.closest("details:not([open])");
  const images = [...document.images].filter((image) => image.naturalWidth === 0 || hidden(image));
  const drawings = [...document.querySelectorAll("figure svg")].filter(hidden);
  return [...images, ...drawings].map((element) => element.outerHTML.slice(0, 200));
}

// By how much the page is wider than the window, and what sticks out of it unless it scrolls by itself.
function overflow() {
  const width = document.documentElement.clientWidth;
  const scrolls = (e) => e && (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const out = [...document.body.querySelectorAll("*")]
    .filter((e) => visible(e) && e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement))
    .map((e) => `${e.tagName}.${e.getAttribute("class")} ${e.textContent.trim().slice(0, 60)}`);
  return [Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - width, out];
}

// Open what is folded; let colours change at once.
function prepare() {
  document.querySelectorAll("details").forEach((details) => (details.open = true));
  document.head.appendChild(document.createElement("style")).textContent = "* { transition: none !important; animation: none !important; }";
}

// Where figures are on the page: [what, left, top, right, bottom].
function boxes(selector) {
  return [...document.querySelectorAll(selector)].filter(visible).map((figure) => {
    const box = figure.getBoundingClientRect();
    const [x, y] = [box.left + scrollX, box.top + scrollY];
    return [figure.outerHTML.slice(0, 200), x, y, x + box.width, y + box.height];
  });
}

// Words in figures that are drawn lower than so many pixels.
function tiny(least) {
  return [...document.querySelectorAll("figure svg text")]
    .map((text) => [parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b), text.textContent])
    .map(([size, words]) => [Math.round(10 * size) / 10, words])
    .filter(([size]) => size > 0 && size < least);
}
