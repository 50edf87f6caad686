// Draws the figures from the packed JSON beside them, in the colours that the reader's system asks for.
"use strict";
(async () => {
  const root = document.documentElement;
  if (root.className !== "js") return;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const partner = JSON.parse(document.getElementById("dark-colours").textContent);
  const DATA = new Set(["x", "y", "z", "text", "customdata", "meta"]);
  const NARROW = 560;

  function recoloured(value, key) {
    if (DATA.has(key)) return value;
    if (typeof value === "string") return partner[value] ?? value;
    if (Array.isArray(value)) return value.map((item) => recoloured(item));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, recoloured(v, k)]));
  }

  // A narrow screen leaves no room for wide margins, and a finger that drags means to scroll.
  function narrowed(layout) {
    const margin = { ...layout.margin, l: 44, r: 8 };
    return { ...layout, margin, font: { ...layout.font, size: 11 }, dragmode: false };
  }

  function draw(plot, spec, answers) {
    const { data, layout } = structuredClone(spec);
    for (const trace of data) {
      const meta = trace.meta ?? {};
      trace.visible = Object.entries(answers).every(([name, value]) => !(name in meta) || meta[name] === value);
    }
    const shown = data.find((trace) => trace.visible && trace.meta?.axis);
    if (shown) layout.yaxis = { ...layout.yaxis, title: { text: shown.meta.axis }, type: shown.meta.scale };
    const narrow = plot.clientWidth < NARROW;
    const figure = { data, layout: narrow ? narrowed(layout) : layout };
    const { data: traces, layout: painted } = dark.matches ? recoloured(figure) : figure;
    return Plotly.react(plot, traces, painted, {
      responsive: true,
      displayModeBar: false, // it would cover the legend, and offers to send the figure to a server
      showSendToCloud: false,
    });
  }

  async function unpacked(id) {
    const packed = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  try {
    const script = document.createElement("script"); // the policy of the page has its hash
    script.textContent = await unpacked("plotly");
    document.head.append(script);
  } catch (error) {
    root.className = "no-js";
    throw error;
  }
  for (const plot of document.querySelectorAll(".plot")) {
    const spec = JSON.parse(await unpacked(plot.id + "-data"));
    const selects = [...plot.closest("figure").querySelectorAll("select")];
    const redraw = () => draw(plot, spec, Object.fromEntries(selects.map((s) => [s.name, s.value])));
    selects.forEach((select) => select.addEventListener("change", redraw));
    dark.addEventListener("change", redraw);
    matchMedia(`(max-width: ${NARROW}px)`).addEventListener("change", redraw);
    redraw();
  }

  // Tells which tables have columns beyond the edge: a shadow alone is easily missed.
  function measure() {
    for (const region of document.querySelectorAll(".scroll"))
      region.classList.toggle("wide", region.scrollWidth > region.clientWidth + 1);
  }
  measure();
  addEventListener("resize", measure);
  document.addEventListener("toggle", measure, true); // what was folded has no width
})();
