// Charts of uPlot from JSON: {charts: [{title, unit, curves: [{name, x: [..], y: [..]}]}]}, each with a table.
"use strict";
(() => {
  const colours = ["--curve-1", "--curve-2", "--curve-3", "--curve-4"];
  const whole = [1, 10, 100, 1e3, 1e4, 1e5, 1e6].flatMap((n) => [n, 2 * n, 5 * n]); // steps, epochs, rounds: no fractions
  const read = (name, other) => getComputedStyle(document.documentElement).getPropertyValue(name).trim() || other;

  function element(tag, text, attributes = {}) {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  function joined(chart) {
    const xs = [...new Set(chart.curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
    const columns = chart.curves.map((curve) => {
      const at = new Map(curve.x.map((x, i) => [x, curve.y[i]]));
      return xs.map((x) => (at.has(x) ? at.get(x) : null));
    });
    return [xs, ...columns];
  }

  function figure(chart) {
    const data = joined(chart);
    const made = element("figure", "", { class: "chart" });
    made.append(element("figcaption", chart.title));
    const plot = element("div", "", { class: "plot", role: "img" });
    const last = chart.curves.map((curve) => {
      const values = curve.y.filter((value) => value !== null);
      return `${curve.name}: ${values.length ? values[values.length - 1].toPrecision(4) : "none"} at the end`;
    });
    plot.setAttribute("aria-label", `${chart.title}. ${last.join("; ")}.`);
    made.append(plot);
    const axis = { stroke: read("--soft", "#5b6875"), grid: { stroke: read("--line", "#dfe5ea"), width: 1 } };
    const series = chart.curves.map((curve, i) => ({
      label: curve.name, stroke: read(colours[i % colours.length], "#0b6e99"), width: 2, spanGaps: true,
      points: { show: data[0].length < 40 },
    }));
    const options = {
      width: 300, height: 190, legend: { live: false }, scales: { x: { time: false, range: (_, least, most) => (data[0].length > 1 ? [least, most] : [data[0][0], data[0][0] + 1]) } },
      series: [{ label: chart.unit }, ...series], axes: [{ ...axis, incrs: whole }, { ...axis, size: 56 }],
    };
    return { made, plot, options, data };
  }

  function table(chart, data) {
    const details = element("details");
    details.append(element("summary", `${chart.title} as a table`));
    const made = element("table");
    const head = element("tr");
    head.append(...[chart.unit, ...chart.curves.map((curve) => curve.name)].map((name) => element("th", name, { scope: "col" })));
    const first = element("thead");
    first.append(head);
    const body = element("tbody");
    const step = Math.max(1, Math.ceil(data[0].length / 50));
    for (let i = 0; i < data[0].length; i += step) {
      const row = element("tr");
      row.append(element("th", String(data[0][i]), { scope: "row" }));
      row.append(...data.slice(1).map((column) => element("td", column[i] === null ? "" : column[i].toPrecision(5), { class: "number" })));
      body.append(row);
    }
    made.append(first, body);
    details.append(made);
    return details;
  }

  function draw(place, charts) {
    place.replaceChildren();
    if (!charts.length) place.append(element("p", "Nothing has been recorded yet.", { class: "soft" }));
    for (const chart of charts) {
      const { made, plot, options, data } = figure(chart);
      made.append(table(chart, data));
      place.append(made);
      const shown = new uPlot({ ...options, width: Math.max(220, plot.clientWidth) }, data, plot);
      new ResizeObserver(() => shown.setSize({ width: Math.max(220, plot.clientWidth), height: options.height })).observe(plot);
    }
    place.dataset.drawn = charts.length;
  }

  async function load(place) {
    try {
      const answer = await fetch(place.dataset.charts, { headers: { accept: "application/json" } });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      draw(place, found.charts);
    } catch (error) {
      place.replaceChildren(element("p", `The curves cannot be shown: ${error.message}`));
    }
  }

  document.querySelectorAll("[data-charts]").forEach(load);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.querySelectorAll("[data-charts]").forEach(load));
  window.eoforgeCharts = { draw, load };
})();
