// Page Annotate: keys, time per answer, the small map, and an answer that is kept until the server has stored it.
"use strict";
(() => {
  const work = document.getElementById("work");
  if (!work) return;
  const kept = `eoforge-answer:${location.pathname}`;
  let shown = performance.now();
  let map = null;

  function say(text) {
    const note = document.createElement("p");
    note.className = "notice";
    note.setAttribute("role", "status");
    note.textContent = text;
    work.prepend(note);
  }

  // The answer is remembered before it is sent and forgotten when the server has stored it: a lost connection or an
  // ended session loses nothing. It carries its request id, so that sending it twice counts once.
  document.addEventListener("submit", (event) => {
    const sent = event.target;
    if (sent.id !== "answer" && sent.id !== "kept") return;
    if (sent.id === "answer") sent.elements.seconds.value = ((performance.now() - shown) / 1000).toFixed(2);
    const values = Object.fromEntries(new FormData(sent, event.submitter));
    delete values.csrf;
    sessionStorage.setItem(kept, JSON.stringify(values));
  }, true);
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!event.detail.pathInfo.requestPath.endsWith("/answer")) return;
    const { status } = event.detail.xhr;
    const refused = [400, 409].includes(status); // sending it again would not help
    if (event.detail.successful || refused) sessionStorage.removeItem(kept);
    if (status === 401) say("Your answer is kept in this tab. It is stored after the next sign-in, and counts once.");
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.xhr.getResponseHeader("x-answer-kept")) event.detail.shouldSwap = true;
  });
  document.addEventListener("htmx:sendError", () => say("The console cannot be reached. Your answer is kept; give it again, it counts once."));

  function resend() {
    const found = sessionStorage.getItem(kept);
    if (!found) return;
    const values = JSON.parse(found);
    htmx.ajax("POST", `${location.pathname}/answer`, { target: "#work", swap: "innerHTML settle:0ms", values });
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input:not([type=hidden]), textarea, select, .map")) return;
    const button = work.querySelector(`button[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (!button || button.disabled) return;
    event.preventDefault();
    button.click();
  });

  function drawMap() {
    const place = work.querySelector("[data-pair-map]");
    if (!place || !window.L || place.dataset.drawn) return;
    place.dataset.drawn = "yes";
    if (map) map.remove();
    map = L.map(place, { maxZoom: 16 });
    map.attributionControl.setPrefix(false);
    if (place.dataset.tiles) L.tileLayer(place.dataset.tiles, { attribution: place.dataset.credit }).addTo(map);
    const accent = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim() || "#0b6e99";
    const boxes = place.dataset.boxes.split(";").map((box) => box.split(",").map(Number));
    const shapes = boxes.map(([west, south, east, north], i) => L.layerGroup([
      L.rectangle([[south, west], [north, east]], { color: accent, weight: 2 }),
      L.circleMarker([(south + north) / 2, (west + east) / 2], { radius: 6, color: accent }),
    ]).addTo(map) && L.latLngBounds([[south, west], [north, east]]));
    map.fitBounds(shapes.reduce((all, one) => all.extend(one), L.latLngBounds(shapes[0].getSouthWest(), shapes[0].getNorthEast())), { padding: [20, 20] });
  }

  document.addEventListener("toggle", (event) => {
    if (event.target.open && event.target.querySelector("[data-pair-map]")) drawMap();
  }, true);

  let iteration = work.querySelector("[data-iteration]")?.dataset.iteration;
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.detail.target !== work) return;
    shown = performance.now();
    const now = work.querySelector("[data-iteration]")?.dataset.iteration;
    if (now !== undefined && now !== iteration && window.eoforgeCharts) {
      iteration = now;
      document.querySelectorAll("[data-charts]").forEach(window.eoforgeCharts.load);
    }
    work.querySelectorAll("button[data-key=s]").forEach((button) => button.focus({ preventScroll: true }));
  });
  addEventListener("load", resend);
})();
