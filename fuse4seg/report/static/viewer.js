// The viewer of a case: layers of its volumes in NiiVue, of which one is looked at and labels lie over it.
"use strict";
(() => {
  const section = document.getElementById("viewer");
  const canvas = document.getElementById("canvas");
  const held = window.fuse4seg || null;
  const RENDER = 4;
  const state = {nv: null, article: null, layers: [], shape: [1, 1, 1], first: [0, 0, 0], at: 0, other: 0, voxel: null};

  const control = (id) => document.getElementById(id);
  const isOver = (layer) => layer.kind === "segmentation" || layer.kind === "reference";
  const bases = () => state.layers.filter((layer) => !isOver(layer));
  const overs = () => state.layers.filter(isOver);

  function say(text) {
    const notice = control("no-viewer");
    notice.textContent = text;
    notice.hidden = !text;
    section.hidden = false;
    section.querySelector(".viewer-body").hidden = Boolean(text);
  }

  function whyNot() {
    if (!held || !window.niivue) {
      return "This report was written without the interactive viewer: f4s_report writes one that has it. Where it says that NiiVue " +
        "is missing, python -m fuse4seg.report.fetch_viewer gets it (by npm). The pictures are all here.";
    }
    if (!document.createElement("canvas").getContext("webgl2")) {
      return "This browser has no WebGL2, which the interactive viewer needs. The pictures are all here.";
    }
    return typeof DecompressionStream === "undefined" ? "This browser is too old for the interactive viewer. The pictures are all here." : "";
  }

  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  async function unzipped(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // The way back of fuse4seg/report/layers.py, packed; sources are known when the fused image's turn comes.
  function unpredicted(levels, layer, [width, height, depth]) {
    const slice = width * height, plane = slice * depth;
    for (let channel = 0, at = 0; channel < layer.channels; channel++) {
      for (let z = 0; z < depth; z++) for (let y = 0; y < height; y++) for (let x = 0; x < width; x++, at++) {
        const a = x ? levels[at - 1] : 0, b = y ? levels[at - width] : 0, c = z ? levels[at - slice] : 0;
        const ab = x && y ? levels[at - width - 1] : 0, ac = x && z ? levels[at - slice - 1] : 0;
        const bc = y && z ? levels[at - slice - width] : 0;
        levels[at] += Math.floor((2 * (a + b + c) - ab - ac - bc) / 3);
      }
    }
    if (layer.channels === 1 && !layer.mixed) return levels;
    const sources = state.layers.filter((one) => one.kind === "source");
    const explained = new Uint8Array(layer.channels * plane);
    for (let channel = 0; channel < layer.channels; channel++) {
      for (let at = 0; at < plane; at++) {
        let known = channel === 1 ? 128 : levels[plane + at];
        if (layer.mixed) {
          const weights = layer.mixed[channel];
          known = weights[sources.length];
          for (let one = 0; one < sources.length; one++) known += weights[one] * sources[one].levels[at];
          known >>= 8;
        }
        explained[layer.channels * at + channel] = levels[channel * plane + at] + known - 128;
      }
    }
    return explained;
  }

  async function volumeOf(layer) {
    layer.levels = unpredicted(await unzipped(bytesOf(layer.data)), layer, state.shape);
    const header = bytesOf(layer.header), file = new Uint8Array(header.length + layer.levels.length);
    file.set(header);
    file.set(layer.levels, header.length);
    const colormap = layer.kind === "entropy" ? "viridis" : "gray";
    const volume = await niivue.NVImage.new(file.buffer, `${layer.kind}.nii`, colormap, 1);
    if (isOver(layer)) volume.setColormapLabel(held.colours.table);
    layer.volume = volume;
  }

  function dataOf(article) {
    const inline = control(`layers-${article.id}`);
    return inline ? JSON.parse(inline.textContent) : held.layers[article.id];
  }

  async function open(article) {
    state.article = article;
    article.querySelector(".viewer-place").append(section);
    const why = whyNot();
    if (why) { say(why); return; }
    say("");
    section.dataset.ready = "";
    const data = dataOf(article);
    if (!data) { say("The volumes of this case are missing beside the page: copy the whole folder. The pictures are all here."); return; }
    Object.assign(state, {layers: data.layers.map((layer) => ({...layer})), shape: data.shape, first: data.first, at: 0, other: 1, voxel: null});
    await Promise.all(state.layers.filter((layer) => layer.kind !== "fused").map(volumeOf));
    await Promise.all(state.layers.filter((layer) => layer.kind === "fused").map(volumeOf));
    if (!state.nv) await start();
    build();
    state.nv.volumes.length = 0;
    for (const volume of [bases()[0].volume, ...overs().map((layer) => layer.volume)]) state.nv.addVolume(volume);
    const flat = state.shape[2] === 1;
    control("view").disabled = flat;
    setView(flat ? 0 : Number(control("view").value));
    const [x, y, z] = data.focus;
    state.nv.scene.crosshairPos = state.nv.vox2frac([state.shape[0] - 1 - x, state.shape[1] - 1 - y, z]);
    redraw();
    state.nv.createOnLocationChange();
    section.dataset.ready = "yes";
  }

  async function start() {
    state.nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.9, 0.6, 0, 1], crosshairWidth: 0.4, isRadiologicalConvention: true, show3Dcrosshair: true,
      dragAndDropEnabled: false, viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", logLevel: "error",
      multiplanarForceRender: true, isNearestInterpolation: false, multiplanarShowRender: 1, multiplanarLayout: 2,
    });
    state.nv.keyDownListener = () => {};
    state.nv.keyUpListener = () => {};
    state.nv.onLocationChange = (location) => { state.voxel = location.vox.map(Math.round); values(); };
    await state.nv.attachToCanvas(canvas);
  }

  function choice(type, name, label, key, checked, onChange) {
    const holder = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, {type, name, checked});
    input.addEventListener("change", () => onChange(input));
    holder.append(input, ` ${label} `);
    if (key) { const shown = document.createElement("kbd"); shown.textContent = key; holder.append(shown); }
    return holder;
  }

  function build() {
    control("bases").replaceChildren(...bases().map((layer, index) =>
      choice("radio", "base", layer.title, index < 9 ? String(index + 1) : "", index === 0, () => look(index))));
    control("other").replaceChildren(...bases().map((layer, index) => new Option(layer.title, String(index), false, index === 1)));
    control("overlays").replaceChildren(...overs().map((layer) => {
      layer.on = layer.kind === "segmentation";
      return choice("checkbox", layer.kind, layer.title, layer.kind === "segmentation" ? "s" : "r", layer.on,
        (input) => { layer.on = input.checked; redraw(); });
    }));
  }

  function look(index) {
    if (index < 0 || index >= bases().length) return;
    state.at = index;
    state.nv.volumes[0] = bases()[index].volume;
    state.nv.back = state.nv.volumes[0];
    control("bases").querySelectorAll("input")[index].checked = true;
    redraw();
  }

  function exchange() {
    const other = Number(control("other").value), now = state.at;
    if (bases().length < 2) return;
    look(other === now ? (now + 1) % bases().length : other);
    control("other").value = String(now);
  }

  function redraw() {
    const opacity = Number(control("opacity").value) / 100;
    for (const layer of overs()) layer.volume.opacity = layer.on ? opacity : 0;
    state.nv.opts.atlasOutline = control("outline").checked ? 1 : 0;
    state.nv.overlays = state.nv.volumes.slice(1);
    state.nv.updateGLVolume();
    values();
  }

  function setView(kind) {
    state.nv.setSliceType(kind);
    control("view").value = String(kind);
  }

  function valueOf(layer, at) {
    const levels = layer.levels.subarray(at * layer.channels, (at + 1) * layer.channels);
    if (layer.channels > 1) return [...levels].join(" ");
    if (isOver(layer)) return held.colours.names[levels[0]] || (levels[0] ? String(levels[0]) : "-");
    const value = levels[0] * layer.slope + layer.intercept;
    const beyond = layer.clipped && levels[0] === 255 ? "≥ " : layer.clipped && levels[0] === 0 ? "≤ " : "";
    return beyond + Number(value.toPrecision(4)) + (layer.unit ? ` ${layer.unit}` : "");
  }

  function values() {
    if (!state.voxel || !state.layers.length || !state.layers[0].levels) return;
    // NiiVue counts voxels to the right, front and head; the arrays go left and back.
    const [width, height, depth] = state.shape;
    const [x, y, z] = [width - 1 - state.voxel[0], height - 1 - state.voxel[1], state.voxel[2]].map((value, axis) =>
      Math.min(Math.max(value, 0), state.shape[axis] - 1));
    const at = (z * height + y) * width + x;
    const rows = [["voxel", [x, y, z].map((value, axis) => value + state.first[axis]).join(" ")],
                  ...state.layers.map((layer) => [layer.title, valueOf(layer, at)])];
    control("values").tBodies[0].replaceChildren(...rows.map(([name, value]) => {
      const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
      head.scope = "row";
      head.textContent = name;
      cell.textContent = value;
      row.append(head, cell);
      return row;
    }));
  }

  function toggle(name) {
    const input = control("overlays").querySelector(`input[name=${name}]`);
    if (input) input.click();
  }

  function fade(by) {
    control("opacity").value = String(Number(control("opacity").value) + by);
    redraw();
  }

  const MOVES = {ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1]};
  const DOES = {
    x: exchange, s: () => toggle("segmentation"), r: () => toggle("reference"), o: () => control("outline").click(),
    "-": () => fade(-10), "+": () => fade(10), "=": () => fade(10),
    v: () => { if (!control("view").disabled) setView((Number(control("view").value) + 1) % (RENDER + 1)); },
  };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || control("help").open) return;
    if (event.target.matches("input:not([type=radio]):not([type=checkbox]), select")) return;
    const link = {"[": "a[rel=prev]", "]": "a[rel=next]"}[event.key];
    if (link && document.querySelector(link)) { document.querySelector(link).click(); return; }
    if (!state.nv || section.dataset.ready !== "yes" || !document.querySelector("article.case.shown")) return;
    if (event.target === canvas && event.key in MOVES) {
      event.preventDefault();
      if (Number(control("view").value) !== RENDER) state.nv.moveCrosshairInVox(...MOVES[event.key]);
      else state.nv.setRenderAzimuthElevation(state.nv.scene.renderAzimuth - 5 * MOVES[event.key][0], state.nv.scene.renderElevation + 5 * MOVES[event.key][1]);
    } else if (event.key in DOES) {
      event.preventDefault();
      DOES[event.key]();
    } else if (/^[1-9]$/.test(event.key)) look(Number(event.key) - 1);
  }

  document.addEventListener("keydown", onKey);
  control("exchange").addEventListener("click", exchange);
  control("opacity").addEventListener("input", () => redraw());
  control("outline").addEventListener("change", () => redraw());
  control("view").addEventListener("change", () => setView(Number(control("view").value)));
  document.addEventListener("shown", (event) => { if (event.detail && event.detail !== state.article) open(event.detail); });
  const only = document.querySelector("article.case.shown");
  if (only) window.addEventListener("load", () => open(only));
})();
