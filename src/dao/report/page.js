"use strict";
// Draws the report: structures and the walk as lit meshes, charts, all by plotly.js from the JSON in #data.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]; // Okabe and Ito
const OTHER = "#8a929b";
const BOND_RADIUS = 0.11; // Angstrom
const MANY_ATOMS = 150; // beyond, spheres have fewer faces
const EYE = 2; // distance of the camera; its perspective is plotly.js's own, as an orthographic one is drawn without shading
const FRAME_MS = 160;

// ---- vectors ----

const add = (u, v) => [u[0] + v[0], u[1] + v[1], u[2] + v[2]];
const scaled = (u, s) => [u[0] * s, u[1] * s, u[2] * s];
const minus = (u, v) => [u[0] - v[0], u[1] - v[1], u[2] - v[2]];
const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
const norm = (u) => Math.hypot(...u);
const unit = (u) => scaled(u, 1 / (norm(u) || 1));

/** Unit sphere as triangles: an icosahedron whose faces are cut in four so many times. */
function icosphere(cuts) {
  const g = (1 + Math.sqrt(5)) / 2;
  const points = [
    [-1, g, 0], [1, g, 0], [-1, -g, 0], [1, -g, 0], [0, -1, g], [0, 1, g],
    [0, -1, -g], [0, 1, -g], [g, 0, -1], [g, 0, 1], [-g, 0, -1], [-g, 0, 1],
  ].map(unit);
  let faces = [
    [0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4], [11, 10, 2], [10, 7, 6], [7, 1, 8],
    [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9], [4, 9, 5], [2, 4, 11], [6, 2, 10], [8, 6, 7], [9, 8, 1],
  ];
  for (let cut = 0; cut < cuts; cut++) {
    const middles = new Map();
    const middle = (i, j) => {
      const key = i < j ? `${i},${j}` : `${j},${i}`;
      if (!middles.has(key)) middles.set(key, points.push(unit(add(points[i], points[j]))) - 1);
      return middles.get(key);
    };
    faces = faces.flatMap(([i, j, k]) => {
      const [ij, jk, ki] = [middle(i, j), middle(j, k), middle(k, i)];
      return [[i, ij, ki], [j, jk, ij], [k, ki, jk], [ij, jk, ki]];
    });
  }
  return { points, faces };
}

const SPHERES = [icosphere(2), icosphere(1)];

// ---- scenes ----

class Mesh {
  constructor(number) {
    this.points = [];
    this.faces = [];
    this.element = data.elements[number];
  }

  sphere(centre, radius, model) {
    const first = this.points.length;
    for (const point of model.points) this.points.push(add(centre, scaled(point, radius)));
    for (const face of model.faces) this.faces.push(face.map((i) => i + first));
  }

  cylinder(from, to) {
    const sides = 10;
    const along = unit(minus(to, from));
    const right = unit(cross(along, Math.abs(along[0]) < 0.8 ? [1, 0, 0] : [0, 1, 0]));
    const up = cross(along, right);
    const first = this.points.length;
    for (let side = 0; side < sides; side++) {
      const angle = (2 * Math.PI * side) / sides;
      const off = add(scaled(right, BOND_RADIUS * Math.cos(angle)), scaled(up, BOND_RADIUS * Math.sin(angle)));
      this.points.push(add(from, off), add(to, off));
    }
    for (let side = 0; side < sides; side++) {
      const [i, j] = [first + 2 * side, first + 2 * ((side + 1) % sides)];
      this.faces.push([i, j, i + 1], [j, j + 1, i + 1]);
    }
  }

  trace() {
    const column = (rows, axis) => rows.map((row) => row[axis]);
    return {
      type: "mesh3d", name: this.element.symbol, color: this.element.colour, hoverinfo: "name", flatshading: false,
      x: column(this.points, 0), y: column(this.points, 1), z: column(this.points, 2),
      i: column(this.faces, 0), j: column(this.faces, 1), k: column(this.faces, 2),
      lighting: { ambient: 0.5, diffuse: 0.65, specular: 0.2, roughness: 0.5, fresnel: 0.1, facenormalsepsilon: 0 },
      lightposition: { x: 3000, y: -6000, z: 9000 },
    };
  }
}

/** Half the cell's diagonal sum, from which all atoms are measured. */
const centreOf = (lattice) => scaled(add(add(lattice[0], lattice[1]), lattice[2]), 0.5);

/** Largest distance from the centre of the cell to its corners and atoms, A. */
function reachOf(scene) {
  const centre = centreOf(scene.lattice);
  return Math.max(norm(centre), ...scene.places.map((place) => norm(minus(place, centre)) + 0.6));
}

function cellTraces(lattice, colours) {
  const centre = centreOf(lattice);
  const corner = (i, j, k) =>
    minus(add(add(scaled(lattice[0], i), scaled(lattice[1], j)), scaled(lattice[2], k)), centre);
  const line = [];
  for (const [p, q] of [[0, 0], [0, 1], [1, 0], [1, 1]])
    line.push(corner(0, p, q), corner(1, p, q), null, corner(p, 0, q), corner(p, 1, q), null,
      corner(p, q, 0), corner(p, q, 1), null);
  const axis = (n) => line.map((point) => (point ? point[n] : null));
  const ends = [corner(1, 0, 0), corner(0, 1, 0), corner(0, 0, 1)].map((end, n) =>
    add(end, scaled(unit(lattice[n]), 0.9)));
  return [
    { type: "scatter3d", mode: "lines", x: axis(0), y: axis(1), z: axis(2), connectgaps: false, hoverinfo: "skip",
      line: { color: colours.quiet, width: 3 } },
    { type: "scatter3d", mode: "text", text: ["a", "b", "c"], hoverinfo: "skip", textfont: { color: colours.ink, size: 15 },
      x: ends.map((end) => end[0]), y: ends.map((end) => end[1]), z: ends.map((end) => end[2]) },
  ];
}

function sceneTraces(scene, colours) {
  const centre = centreOf(scene.lattice);
  const places = scene.places.map((place) => minus(place, centre));
  const model = SPHERES[places.length > MANY_ATOMS ? 1 : 0];
  const meshes = new Map();
  for (const number of new Set(scene.numbers)) meshes.set(number, new Mesh(number));
  places.forEach((place, i) => meshes.get(scene.numbers[i]).sphere(place, data.elements[scene.numbers[i]].radius, model));
  for (const [i, j] of scene.bonds) {
    const middle = scaled(add(places[i], places[j]), 0.5);
    meshes.get(scene.numbers[i]).cylinder(places[i], middle);
    meshes.get(scene.numbers[j]).cylinder(middle, places[j]);
  }
  return [...[...meshes.values()].map((mesh) => mesh.trace()), ...cellTraces(scene.lattice, colours)];
}

/** Camera along a lattice vector (0, 1, 2), or from a little above. */
function camera(lattice, along) {
  const projection = { type: "perspective" };
  const centre = { x: 0, y: 0, z: 0 };
  const named = ([x, y, z]) => ({ x, y, z });
  if (along === null) return { projection, center: centre, eye: named(scaled(unit([0.55, -1.8, 0.62]), EYE)), up: named([0, 0, 1]) };
  const up = unit(lattice[along === 2 ? 1 : 2]);
  return { projection, center: centre, eye: named(scaled(unit(lattice[along]), EYE)), up: named(up) };
}

const modebar = ({ quiet, accent }) => ({ bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: accent });

function sceneLayout(reach, view, revision, colours) {
  const size = 0.72 * EYE;
  const axis = { visible: false, range: [-reach, reach], showspikes: false };
  return {
    margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", showlegend: false, uirevision: revision,
    hoverlabel: { font: { size: 13 } }, font: { color: colours.ink }, modebar: modebar(colours),
    scene: { xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "manual", aspectratio: { x: size, y: size, z: size },
      camera: view, dragmode: "orbit", bgcolor: "rgba(0,0,0,0)" },
  };
}

// ---- the page ----

const CONFIG = {
  displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "", // nothing leaves this page
  modeBarButtonsToRemove: ["lasso2d", "select2d", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d",
    "resetCameraLastSave3d", "tableRotation", "zoom3d", "pan3d", "orbitRotation"],
};
const coarse = matchMedia("(pointer: coarse)").matches;
const dark = matchMedia("(prefers-color-scheme: dark)");
const colours = () => {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ink", "quiet", "grid", "panel", "accent"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
};
const state = { rank: data.candidates.length ? data.candidates[0].rank : null, view: null, turns: 0, frame: 0, timer: null };
const candidate = () => data.candidates.find((one) => one.rank === state.rank);

function legend(list, numbers) {
  list.replaceChildren(...[...new Set(numbers)].map((number) => {
    const item = document.createElement("li");
    const mark = document.createElement("i");
    mark.style.background = data.elements[number].colour;
    item.append(mark, data.elements[number].symbol);
    return item;
  }));
}

async function drawStructure() {
  const one = candidate();
  const traces = sceneTraces(one.scene, colours());
  const layout = sceneLayout(reachOf(one.scene), camera(one.scene.lattice, state.view), `${state.rank} ${state.turns}`, colours());
  byId("structure").setAttribute("aria-label", `Crystal structure of candidate ${one.title}. ${one.cell}. Turn it by dragging.`);
  byId("structure-cell").textContent = one.cell;
  byId("structure-warnings").replaceChildren(...one.warnings.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  legend(byId("structure-legend"), one.scene.numbers);
  byId("candidate").value = String(state.rank);
  for (const button of document.querySelectorAll("button.view")) {
    const chosen = Number(button.dataset.rank) === state.rank;
    button.setAttribute("aria-pressed", String(chosen));
    button.closest("tr").classList.toggle("chosen", chosen);
  }
  await Plotly.react("structure", traces, layout, CONFIG);
}

function chartLayout(extra) {
  const { ink, grid, panel } = colours();
  const font = { color: ink, size: 13 };
  const axis = { gridcolor: grid, linecolor: grid, zeroline: false, fixedrange: coarse, automargin: true, ticks: "outside", tickcolor: grid };
  const layout = {
    font, modebar: modebar(colours()), paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    margin: { l: 60, r: 14, t: 34, b: 48 }, hoverlabel: { bgcolor: panel, font }, dragmode: coarse ? false : "zoom",
    ...extra,
  };
  for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) layout[key] = { ...axis, ...layout[key] };
  return layout;
}

async function drawVolume() {
  const shown = data.candidates.filter((one) => !data.energies || one.energy !== null);
  const height = (one) => (data.energies ? one.energy : one.count);
  const colour = (one) => COLOURS[one.rank - 1] || OTHER;
  const said = (one) => (one.energy === null ? "no energy" : `${one.energy.toFixed(3)} eV/atom above hull` +
    (one.error === null ? "" : ` \u00b1 ${one.error.toFixed(3)}`));
  const trace = {
    type: "scatter", mode: "markers+text", x: shown.map((one) => one.volume), y: shown.map(height),
    text: shown.map((one) => (one.rank <= COLOURS.length ? one.rank : "")), textposition: "top center", cliponaxis: false,
    customdata: shown.map((one) => [one.title, said(one), one.count, one.rank]),
    hovertemplate: "%{customdata[0]}<br>%{x:.3g} \u00c5\u00b3/atom<br>%{customdata[1]}<br>found %{customdata[2]} times<extra></extra>",
    marker: { size: shown.map((one) => (one.rank <= COLOURS.length ? 12 : 8)), color: shown.map(colour), line: { width: 1, color: colours().panel } },
  };
  if (data.energies && shown.some((one) => one.error !== null))
    trace.error_y = { type: "data", array: shown.map((one) => one.error || 0), thickness: 1, width: 3, color: colours().quiet };
  const title = data.energies ? "Predicted energy above hull (eV/atom)" : "Times found";
  const range = (values, low) => {
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const pad = 0.18 * (most - least) || 0.1 * Math.abs(most) || 1;
    return [low === undefined ? least - pad : low, most + pad];
  };
  const ends = shown.flatMap((one) => [height(one) - (data.energies ? one.error || 0 : 0), height(one) + (data.energies ? one.error || 0 : 0)]);
  await Plotly.react("volume", [trace], chartLayout({
    xaxis: { title: { text: "Volume (\u00c5\u00b3/atom)" }, range: range(shown.map((one) => one.volume)) },
    yaxis: { title: { text: title }, range: range(ends, data.energies ? undefined : 0),
      ...(data.energies || Math.max(...ends) > 6 ? {} : { dtick: 1 }) },
  }), CONFIG);
}

async function drawPatterns() {
  const count = data.patterns.length;
  if (!count) return;
  const axes = {};
  const traces = data.patterns.map((pattern, n) => {
    const name = n === 0 ? "y" : `y${n + 1}`;
    axes[n === 0 ? "yaxis" : `yaxis${n + 1}`] = {
      domain: [1 - (n + 0.86) / count, 1 - n / count], range: [0, 118], tickvals: [0, 50, 100], fixedrange: true,
      title: { text: n === Math.floor((count - 1) / 2) ? "Relative intensity (%)" : "" },
    };
    return {
      type: "bar", x: pattern.angles, y: pattern.heights, width: 0.35, yaxis: name, customdata: pattern.labels,
      marker: { color: COLOURS[n], line: { width: 0 } },
      hovertemplate: `${pattern.title}<br>2\u03b8 = %{x:.2f}\u00b0<br>I = %{y:.3g} %<br>%{customdata}<extra></extra>`,
    };
  });
  const annotations = data.patterns.map((pattern, n) => ({
    text: pattern.title, xref: "paper", yref: "paper", x: 1, xanchor: "right", y: 1 - (n + 0.02) / count, yanchor: "top", showarrow: false,
    font: { color: COLOURS[n], size: 13 },
  }));
  await Plotly.react("patterns", traces, chartLayout({
    ...axes, annotations, bargap: 0,
    xaxis: { title: { text: "2\u03b8 (\u00b0)" }, range: data.twoTheta, anchor: count === 1 ? "y" : `y${count}` },
  }), CONFIG);
}

async function drawWalk() {
  const walk = data.walk;
  if (!walk) return;
  const scenes = walk.frames.map((frame) => ({ ...frame, numbers: walk.numbers, bonds: walk.bonds }));
  const shown = scenes[state.frame];
  // a bond is one while it is near its final length
  const last = scenes[scenes.length - 1];
  const length = (scene, [i, j]) => norm(minus(scene.places[i], scene.places[j]));
  const bonds = walk.bonds.filter((bond) => length(shown, bond) < 1.2 * length(last, bond));
  const reach = 1.1 * reachOf(last);
  const text = `t = ${walk.times[state.frame].toFixed(2)}, ${walk.volumes[state.frame].toPrecision(3)} \u00c5\u00b3/atom`;
  byId("walk-time").textContent = text;
  byId("walk-frame").setAttribute("aria-valuetext", text);
  byId("walk-frame").value = String(state.frame);
  await Plotly.react("walk", sceneTraces({ ...shown, bonds }, colours()),
    sceneLayout(reach, camera(last.lattice, null), "walk", colours()), CONFIG);
}

function stop() {
  clearTimeout(state.timer);
  state.timer = null;
  byId("walk-play").textContent = "Play";
  byId("walk-play").setAttribute("aria-pressed", "false");
}

async function play() {
  await drawWalk();
  if (state.frame === data.walk.frames.length - 1) return stop();
  state.timer = setTimeout(() => {
    state.frame += 1;
    play();
  }, FRAME_MS);
}

function listen() {
  const choose = (rank) => {
    state.rank = rank;
    return drawStructure();
  };
  byId("candidate").addEventListener("change", (event) => choose(Number(event.target.value)));
  for (const button of document.querySelectorAll("button.view"))
    button.addEventListener("click", () => {
      choose(Number(button.dataset.rank));
      byId("structure-heading").scrollIntoView({ block: "start" });
    });
  for (const button of document.querySelectorAll("button[data-view]"))
    button.addEventListener("click", () => {
      const along = "abc".indexOf(button.dataset.view);
      state.view = along < 0 ? null : along;
      state.turns += 1; // forget how the reader has turned it
      drawStructure();
    });
  byId("volume").on("plotly_click", (event) => choose(event.points[0].customdata[3]));
  if (data.walk) {
    byId("walk-frame").addEventListener("input", (event) => {
      stop();
      state.frame = Number(event.target.value);
      drawWalk();
    });
    byId("walk-play").addEventListener("click", () => {
      if (state.timer !== null) return stop();
      if (state.frame === data.walk.frames.length - 1) state.frame = 0;
      byId("walk-play").textContent = "Pause";
      byId("walk-play").setAttribute("aria-pressed", "true");
      play();
    });
  }
  dark.addEventListener("change", () => [drawStructure, drawVolume, drawPatterns, drawWalk].forEach((draw) => draw()));
}

/** Puts plotly.js, packed in the page, into it as a script; the page's policy knows its hash. */
async function loadLibrary() {
  const packed = Uint8Array.from(atob(byId("library").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

/** Draws one figure; where that fails (no WebGL, an old browser) the rest of the page still stands. */
async function attempt(id, draw) {
  try {
    await draw();
  } catch (error) {
    const place = byId(id);
    if (!place) return;
    place.classList.add("failed");
    const folder = document.documentElement.dataset.figures;
    const instead = folder ? ` It lies as an image in the folder \u201c${folder}\u201d beside this file.` : "";
    place.textContent = `This browser cannot draw this figure.${instead}`;
    console.error(error);
  }
}

async function main() {
  if (state.rank === null) return;
  if (data.walk) state.frame = data.walk.frames.length - 1;
  const figures = { structure: drawStructure, volume: drawVolume, patterns: drawPatterns, walk: drawWalk };
  let loaded = loadLibrary();
  for (const [id, draw] of Object.entries(figures))
    await attempt(id, async () => {
      await loaded;
      await draw();
    });
  listen();
  document.documentElement.dataset.ready = "true";
}

main();
