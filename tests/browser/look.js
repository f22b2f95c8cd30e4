// What a reader sees of the page. Colours are read back from a canvas, whatever notation the style has them in.

const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

function rgba(colour) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}

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

function ground(element) {
  if (!element) return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
  const own = rgba(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own : over(own, ground(element.parentElement));
}

function visible(element) {
  if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) return false;
  const box = element.getBoundingClientRect();
  return box.width > 1 && box.height > 1;
}

function opacity(element) {
  return element ? Number(getComputedStyle(element).opacity) * opacity(element.parentElement) : 1;
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
    const behind = ground(element);
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

function unfold() {
  document.querySelectorAll("details").forEach((details) => (details.open = true));
}
