// Maps of footprints on canvas, from our own coordinates; a base map only where the page names its tiles.
// <div class="map" data-items="SELECTOR of elements with data-box (west,south,east,north), data-name, data-kind"
//      data-footprints="address of [[name, west, south, east, north], …] in a box, optional"
//      data-choose="page that takes patch_id, optional" data-tiles="…" data-credit="…">
"use strict";

const EoforgeMap = (() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const KINDS = { query: "accent", partner: "good", miss: "bad", hit: "warn" };
  const STEPS = [30, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02];
  const FETCH_MS = 250;

  const bounds = (box) => [[box[1], box[0]], [box[3], box[2]]];
  const numbers = (text) => text.split(",").map(Number);

  // Leaflet takes HTML as tooltips; a text node cannot hold markup.
  const text = (words) => { const span = document.createElement("span"); span.textContent = words; return span; };

  // A patch of 1.2 km is less than a pixel on the map of a continent: a dot of fixed size shows where it is.
  const footprint = (box, style, radius) => {
    const square = L.rectangle(bounds(box), style);
    const dot = L.circleMarker(square.getBounds().getCenter(), { ...style, radius, fillOpacity: 0.8, weight: 1 });
    return L.featureGroup([dot, square]);
  };

  const create = (element) => {
    const map = L.map(element, { preferCanvas: true, worldCopyJump: true, minZoom: 2 }).setView([52, 12], 4);
    map.attributionControl.setPrefix(false);
    L.control.scale({ imperial: false }).addTo(map);
    const { tiles, credit, items, footprints, choose } = element.dataset;
    if (tiles) L.tileLayer(tiles, { attribution: credit }).addTo(map);
    const lines = L.layerGroup().addTo(map), archive = L.layerGroup().addTo(map), shown = L.layerGroup().addTo(map);
    let fitting = false, timer = 0, asked = 0;

    const graticule = () => {
      lines.clearLayers();
      if (tiles) return;
      const view = map.getBounds().pad(0.1);
      const step = [...STEPS].reverse().find((s) => (view.getEast() - view.getWest()) / s < 14) || 30;
      const style = { color: colour("line"), weight: 1, interactive: false };
      const north = Math.min(view.getNorth(), 85), south = Math.max(view.getSouth(), -85);
      for (let lon = Math.ceil(view.getWest() / step) * step; lon < view.getEast(); lon += step)
        L.polyline([[south, lon], [north, lon]], style).addTo(lines);
      for (let lat = Math.ceil(south / step) * step; lat < north; lat += step)
        L.polyline([[lat, view.getWest()], [lat, view.getEast()]], style).addTo(lines);
    };

    const go = (name) => {
      const form = document.getElementById("search-form");
      const given = new URLSearchParams(form ? new FormData(form) : {});
      const next = new URLSearchParams({ patch_id: name });
      for (const key of ["from", "to", "k"]) if (given.get(key)) next.set(key, given.get(key));
      window.location.assign(`${choose}?${next}`);
    };

    const draw = (fit) => {
      shown.clearLayers();
      const all = items ? [...document.querySelectorAll(items)] : [];
      for (const item of all) {
        const style = { color: colour(KINDS[item.dataset.kind] || "accent"), weight: 2, fillOpacity: 0.25 };
        const box = footprint(numbers(item.dataset.box), style, item.dataset.kind === "query" ? 8 : 5);
        box.bindTooltip(text(item.dataset.name));
        box.on("click", (event) => {
          L.DomEvent.stopPropagation(event);
          item.scrollIntoView({ block: "center" });
          item.querySelector("a")?.focus();
        });
        const mark = (on) => item.classList.toggle("marked", on);
        box.on("mouseover", () => mark(true)).on("mouseout", () => mark(false));
        box.addTo(shown);
      }
      if (fit && all.length) {
        const union = L.latLngBounds(all.map((item) => bounds(numbers(item.dataset.box))).flat());
        map.fitBounds(union.pad(0.15), { maxZoom: 13, animate: false });
      }
      return all.length;
    };

    const look = async (fit) => {
      if (!footprints) return;
      const view = map.getBounds(), clamp = (v, m) => Math.max(-m, Math.min(m, v));
      const box = fit ? [-180, -90, 180, 90]
        : [clamp(view.getWest(), 180), clamp(view.getSouth(), 90), clamp(view.getEast(), 180), clamp(view.getNorth(), 90)];
      const mine = ++asked;
      const answer = await fetch(`${footprints}?bbox=${box.join(",")}`, { headers: { Accept: "application/json" } }).catch(() => null);
      if (!answer || !answer.ok || mine !== asked) return;
      const { patches } = await answer.json();
      archive.clearLayers();
      for (const [name, ...sides] of patches) {
        footprint(sides, { color: colour("soft"), weight: 1, fillOpacity: 0.08 }, 2)
          .bindTooltip(text(name))
          .on("click", (event) => {
            if (!choose || element.classList.contains("crosshair")) return;
            L.DomEvent.stopPropagation(event);
            go(name);
          })
          .addTo(archive);
      }
      if (fit && patches.length) map.fitBounds(L.latLngBounds(patches.map(([, ...sides]) => bounds(sides)).flat()).pad(0.05), { animate: false });
      element.dataset.loaded = String(patches.length);
    };

    map.on("moveend", () => {
      graticule();
      if (fitting) return;
      clearTimeout(timer);
      timer = setTimeout(() => look(false), FETCH_MS);
    });
    const renew = (fit) => { fitting = true; const found = draw(fit); fitting = false; return found; };
    graticule();
    if (renew(true)) look(false); else look(true);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { graticule(); draw(false); look(false); });
    document.addEventListener("htmx:afterSettle", () => { if (renew(true)) look(false); });
    return map;
  };

  const maps = new Map();
  document.addEventListener("DOMContentLoaded", () => {
    for (const element of document.querySelectorAll(".map")) maps.set(element, create(element));
    document.dispatchEvent(new Event("eoforge:maps"));
  });
  return { of: (element) => maps.get(element), colour };
})();
