"use strict";
// Balls and sticks on a canvas: drag to turn, wheel to zoom, a slider for the frames.
const COLORS = {
  H: "#f2f4f6", C: "#4a4f57", N: "#3f66c7", O: "#d33a2f", F: "#6fc26b", P: "#e08a2e",
  S: "#e3c02f", Cl: "#43b04a", Br: "#a2492b", I: "#7d3fa0", Si: "#c9a77a", B: "#e5a79b",
};
const RADII = { H: 0.24, C: 0.38, N: 0.37, O: 0.36, F: 0.34, S: 0.46, P: 0.46 };

function shade(hex, factor) {
  const parts = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const mixed = parts.map((x) =>
    Math.round(factor > 1 ? x + (255 - x) * (factor - 1) : x * factor)
  );
  return `rgb(${mixed.join(",")})`;
}

function startViewer(root) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const canvas = root.querySelector("canvas");
  const slider = root.querySelector("input");
  const button = root.querySelector("button");
  const label = root.querySelector("output");
  const context = canvas.getContext("2d");
  let turn = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  let zoom = 1, frame = 0, timer = null, held = null;

  let reach = 1;
  for (const [x, y, z] of data.frames[0]) reach = Math.max(reach, Math.hypot(x, y, z));

  function rotate(axis, angle) {
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    const m = axis === "x"
      ? [[1, 0, 0], [0, c, -s], [0, s, c]]
      : [[c, 0, s], [0, 1, 0], [-s, 0, c]];
    turn = m.map((row) =>
      [0, 1, 2].map((j) => row.reduce((sum, v, k) => sum + v * turn[k][j], 0))
    );
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== width * ratio || canvas.height !== height * ratio) {
      canvas.width = width * ratio;
      canvas.height = height * ratio;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const scale = zoom * 0.42 * Math.min(width, height) / (reach + 0.4);
    const places = data.frames[frame].map((p) => {
      const [x, y, z] = turn.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2]);
      const depth = 1 + z / (8 * reach);
      return { x: width / 2 + scale * x * depth, y: height / 2 - scale * y * depth, z, depth };
    });
    const at = data.frames[frame];
    const near = (data.changing || []).filter(([i, j, limit]) =>
      Math.hypot(at[i][0] - at[j][0], at[i][1] - at[j][1], at[i][2] - at[j][2]) < limit
    );
    const items = [...data.bonds, ...near].map(([i, j]) => ({ z: (places[i].z + places[j].z) / 2, i, j }));
    places.forEach((place, i) => items.push({ z: place.z + 0.05, i, j: -1 }));
    items.sort((a, b) => a.z - b.z);
    for (const item of items) {
      const a = places[item.i];
      const fog = 0.9 + 0.1 * Math.max(-1, Math.min(1, a.z / reach));
      if (item.j < 0) {
        const symbol = data.symbols[item.i];
        const radius = (RADII[symbol] || 0.42) * scale * a.depth;
        const color = COLORS[symbol] || "#b06fc0";
        const light = context.createRadialGradient(
          a.x - radius / 3, a.y - radius / 3, radius / 10, a.x, a.y, radius
        );
        light.addColorStop(0, shade(color, 1.55));
        light.addColorStop(0.45, shade(color, fog));
        light.addColorStop(1, shade(color, 0.62 * fog));
        context.fillStyle = light;
        context.beginPath();
        context.arc(a.x, a.y, radius, 0, 2 * Math.PI);
        context.fill();
        continue;
      }
      const b = places[item.j];
      const middle = { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
      context.lineWidth = 0.22 * scale;
      context.lineCap = "butt";
      for (const [end, index] of [[a, item.i], [b, item.j]]) {
        context.strokeStyle = shade(COLORS[data.symbols[index]] || "#b06fc0", 0.78);
        context.beginPath();
        context.moveTo(end.x, end.y);
        context.lineTo(middle.x, middle.y);
        context.stroke();
      }
    }
    label.textContent = data.labels[frame] || "";
    slider.value = frame;
  }

  function play(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => {
      frame = (frame + 1) % data.frames.length;
      draw();
    }, 50) : null;
    button.textContent = on ? "Pause" : "Play";
  }

  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    rotate("y", (event.clientX - held[0]) / 120);
    rotate("x", (event.clientY - held[1]) / 120);
    held = [event.clientX, event.clientY];
    draw();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => { held = null; });
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom = Math.min(5, Math.max(0.3, zoom * Math.exp(-event.deltaY / 600)));
    draw();
  }, { passive: false });
  slider.addEventListener("input", () => { frame = Number(slider.value); play(false); draw(); });
  button.addEventListener("click", () => play(timer === null));
  window.addEventListener("resize", draw);
  root.dataset.frames = data.frames.length;
  rotate("x", 0.35);
  rotate("y", 0.5);
  draw();
}

document.querySelectorAll(".viewer").forEach(startViewer);
