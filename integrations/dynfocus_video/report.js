"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const frames = data.frames;
  const byId = (id) => document.getElementById(id);
  const buttons = new Map();
  for (const button of document.querySelectorAll("#strip button")) buttons.set(Number(button.dataset.frame), button);
  const focusFrames = frames.flatMap((frame, index) => (frame.focus ? [index] : []));
  const [rows, columns] = data.grid;
  const end = data.end;
  // Eight hues that colour-blind people tell apart, then each of them once more, lighter or darker.
  const hues = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8a73d6",
    "#003a5c", "#8c6100", "#9be3cc", "#7d3a5c", "#c9e6f9", "#7a3500", "#8a8318", "#d8cdf7",
  ];
  let current = 0;
  let pointed = -1;

  function select(index, { scroll = true, focusStrip = false } = {}) {
    const before = buttons.get(current);
    if (before) { before.removeAttribute("aria-current"); before.tabIndex = -1; }
    current = Math.max(0, Math.min(frames.length - 1, index));
    pointed = -1;
    const button = buttons.get(current);
    const anchor = button || buttons.get(nearestPictured(current));
    if (button) button.setAttribute("aria-current", "true");
    if (anchor) {
      anchor.tabIndex = 0;
      if (focusStrip) anchor.focus({ preventScroll: true });
      if (scroll) centre(anchor);
    }
    showNumbers();
    showPicture(button);
    movePlayhead();
  }

  function nearestPictured(index) {
    let best = -1;
    for (const key of buttons.keys()) if (best < 0 || Math.abs(key - index) < Math.abs(best - index)) best = key;
    return best;
  }

  function centre(button) {
    const strip = byId("strip");
    const place = button.getBoundingClientRect().left - strip.getBoundingClientRect().left + strip.scrollLeft;
    strip.scrollLeft = place - (strip.clientWidth - button.offsetWidth) / 2;
  }

  function showNumbers() {
    const frame = frames[current];
    byId("clock").textContent = frame.clock;
    const kind = byId("kind");
    kind.textContent = frame.focus ? "focus frame" : "peripheral frame";
    kind.className = "kind" + (frame.focus ? " focus e" + (((frame.event % 6) + 6) % 6) : "");
    byId("why").textContent = frame.why;
    byId("n-frame").textContent = current + " / " + (frames.length - 1);
    byId("n-event").textContent = frame.event < 0 ? "–" : frame.event;
    byId("n-importance").textContent = frame.importance;
    byId("n-score").textContent = frame.score;
    byId("n-tokens").textContent = frame.tokens;
    const slider = byId("timeline");
    slider.setAttribute("aria-valuemax", frames.length - 1);
    slider.setAttribute("aria-valuenow", current);
    slider.setAttribute("aria-valuetext", frame.clock + ", " + kind.textContent + ", event " + frame.event + ", " + frame.tokens + " tokens");
  }

  function showPicture(button) {
    const image = byId("large");
    const source = button && button.querySelector("img");
    image.hidden = !source;
    byId("missing").hidden = Boolean(source);
    if (source) image.src = source.src;
    else image.removeAttribute("src");
    image.alt = source ? "The frame at " + frames[current].clock : "";
    byId("levels").disabled = !frames[current].regions;
    paint();
  }

  function labels() {
    const level = Number(document.querySelector("#levels input:checked").value);
    const packed = frames[current].regions;
    if (level < 0 || !packed) return null;
    const bytes = atob(packed);
    const patches = rows * columns;
    return Array.from({ length: patches }, (_, patch) => bytes.charCodeAt(level * patches + patch));
  }

  function paint() {
    const canvas = byId("paint");
    const parts = labels();
    const [left, top, width, height] = data.seen;
    Object.assign(canvas.style, { left: 100 * left + "%", top: 100 * top + "%", width: 100 * width + "%", height: 100 * height + "%" });
    const box = canvas.getBoundingClientRect();
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(box.width * scale);
    canvas.height = Math.round(box.height * scale);
    const cell = { wide: canvas.width / columns, tall: canvas.height / rows, dot: scale };
    byId("parts").textContent = parts ? "Patches of one colour form one object prototype." : frames[current].regions ? "" : "Only focus frames are painted.";
    if (!parts) return;
    const pen = canvas.getContext("2d");
    for (let patch = 0; patch < parts.length; patch++) {
      const [x, y] = corner(patch, cell);
      pen.globalAlpha = pointed < 0 ? 0.42 : parts[patch] === pointed ? 0.62 : 0.12;
      pen.fillStyle = hues[parts[patch] % hues.length];
      pen.fillRect(x, y, edge(patch % columns + 1, cell.wide) - x, edge(Math.floor(patch / columns) + 1, cell.tall) - y);
    }
    pen.globalAlpha = 1;
    outline(pen, parts, cell, "rgb(0 0 0 / .5)", 3.6 * scale);
    outline(pen, parts, cell, "#fff", 1.5 * scale);
    number(pen, parts, cell);
  }

  function corner(patch, cell) {
    return [edge(patch % columns, cell.wide), edge(Math.floor(patch / columns), cell.tall)];
  }

  function edge(count, size) {
    return Math.round(count * size);
  }

  function outline(pen, parts, cell, colour, width) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineCap = "round";
    pen.beginPath();
    for (let patch = 0; patch < parts.length; patch++) {
      const column = patch % columns, row = Math.floor(patch / columns);
      const [x, y] = corner(patch, cell);
      if (column + 1 < columns && parts[patch] !== parts[patch + 1]) { pen.moveTo(x + cell.wide, y); pen.lineTo(x + cell.wide, y + cell.tall); }
      if (row + 1 < rows && parts[patch] !== parts[patch + columns]) { pen.moveTo(x, y + cell.tall); pen.lineTo(x + cell.wide, y + cell.tall); }
    }
    pen.stroke();
  }

  function number(pen, parts, cell) {
    const groups = new Map();
    parts.forEach((part, patch) => groups.set(part, [...(groups.get(part) || []), patch]));
    pen.font = "600 " + Math.round(Math.max(10 * cell.dot, Math.min(14 * cell.dot, cell.tall * 0.8))) + "px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    for (const [part, patches] of groups) {
      const mean = (axis) => patches.reduce((sum, patch) => sum + axis(patch), 0) / patches.length;
      const x = mean((patch) => patch % columns), y = mean((patch) => Math.floor(patch / columns));
      const distance = (patch) => (patch % columns - x) ** 2 + (Math.floor(patch / columns) - y) ** 2;
      const best = patches.reduce((a, b) => (distance(b) < distance(a) ? b : a));
      const [left, top] = corner(best, cell);
      const at = [left + cell.wide / 2, top + cell.tall / 2];
      pen.strokeStyle = "rgb(0 0 0 / .8)";
      pen.lineWidth = 3 * cell.dot;
      pen.strokeText(part, ...at);
      pen.fillStyle = "#fff";
      pen.fillText(part, ...at);
    }
  }

  function movePlayhead() {
    const until = current + 1 < frames.length ? frames[current + 1].start : end;
    const head = byId("playhead");
    const width = Math.max(100 * (until - frames[current].start) / end, 0.4);
    head.style.left = 100 * frames[current].start / end + "%";
    head.style.width = width + "%";
  }

  function frameAt(event) {
    const box = byId("timeline").getBoundingClientRect();
    const moment = (event.clientX - box.left) / box.width * end;
    let low = 0, high = frames.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (frames[middle].start <= moment) low = middle; else high = middle - 1;
    }
    return low;
  }

  function neighbour(step) {
    if (step > 0) return focusFrames.find((index) => index > current) ?? current;
    return focusFrames.findLast((index) => index < current) ?? current;
  }

  function keyed(event) {
    const fromStrip = event.currentTarget.id === "strip";
    const wide = Math.max(1, Math.round(frames.length / 10));
    const target = {
      ArrowLeft: current - 1, ArrowRight: current + 1, ArrowUp: neighbour(-1), ArrowDown: neighbour(1),
      Home: 0, End: frames.length - 1, PageUp: current - wide, PageDown: current + wide,
    }[event.key];
    if (target === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    select(target, { focusStrip: fromStrip });
  }

  const timeline = byId("timeline");
  timeline.addEventListener("keydown", keyed);
  timeline.addEventListener("pointerdown", (event) => { timeline.setPointerCapture(event.pointerId); select(frameAt(event)); });
  timeline.addEventListener("pointermove", (event) => { if (event.buttons) select(frameAt(event)); });
  byId("strip").addEventListener("keydown", keyed);
  byId("strip").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) select(Number(button.dataset.frame), { scroll: false });
  });
  byId("levels").addEventListener("change", paint);
  byId("previous").addEventListener("click", () => select(neighbour(-1)));
  byId("next").addEventListener("click", () => select(neighbour(1)));
  byId("paint").addEventListener("pointermove", (event) => {
    const parts = labels();
    if (!parts) return;
    const box = event.target.getBoundingClientRect();
    const column = Math.min(columns - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * columns)));
    const row = Math.min(rows - 1, Math.max(0, Math.floor((event.clientY - box.top) / box.height * rows)));
    const part = parts[row * columns + column];
    if (part === pointed) return;
    pointed = part;
    paint();
    byId("parts").textContent = "Part " + part + ": " + parts.filter((other) => other === part).length + " patches";
  });
  byId("paint").addEventListener("pointerleave", () => { pointed = -1; paint(); });
  byId("large").addEventListener("load", paint);
  window.addEventListener("resize", paint);
  byId("strip").style.scrollBehavior = "auto";
  select(focusFrames.reduce((best, index) => (Number(frames[index].score) > Number(frames[best].score) ? index : best), focusFrames[0] ?? 0));
  byId("strip").style.scrollBehavior = "";
})();
