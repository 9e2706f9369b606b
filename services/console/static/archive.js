// Map of the page Archive: footprints of the visible box, as polygons or as counts on a grid.
"use strict";
(() => {
  const place = document.getElementById("archive-map");
  if (!place || !window.L) return;
  const note = document.getElementById("archive-map-note");
  const [west, south, east, north] = place.dataset.extent.split(",").map(Number);
  const map = L.map(place, { preferCanvas: true, minZoom: 1, maxZoom: 16 });
  map.attributionControl.setPrefix(false);
  if (place.dataset.tiles) L.tileLayer(place.dataset.tiles, { attribution: place.dataset.credit }).addTo(map);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#0b6e99";
  const layer = L.geoJSON(null, { style, onEachFeature }).addTo(map);
  let most = 1;
  let asked = null;

  function style(feature) {
    const count = feature.properties.count;
    const fill = count === undefined ? 0.25 : 0.15 + 0.7 * Math.log1p(count) / Math.log1p(most);
    return { color: colour("--accent"), weight: 1, fillOpacity: fill };
  }

  function onEachFeature(feature, shape) {
    const { patch_id: id, split, count } = feature.properties;
    if (count !== undefined) {
      shape.bindTooltip(`${count.toLocaleString()} patches`);
      shape.on("click", () => map.fitBounds(shape.getBounds()));
      return;
    }
    const link = document.createElement("a");
    link.href = `/patch/${encodeURIComponent(id)}`;
    link.textContent = id;
    const text = document.createElement("span");
    text.append(link, ` (${split})`);
    shape.bindPopup(text);
  }

  async function show() {
    const box = map.getBounds();
    const query = new URLSearchParams({
      west: box.getWest(), south: box.getSouth(), east: box.getEast(), north: box.getNorth(),
      version: place.dataset.version,
    });
    if (asked) asked.abort();
    asked = new AbortController();
    try {
      const answer = await fetch(`/archive/footprints?${query}`, {
        headers: { accept: "application/json" }, signal: asked.signal,
      });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      most = Math.max(1, ...found.features.map((feature) => feature.properties.count || 1));
      layer.clearLayers();
      layer.addData(found);
      const what = found.kind === "cells" ? "as counts on a grid; zoom in for the patches" : "as polygons";
      note.textContent = `${found.total.toLocaleString()} patches in view, ${what}.`;
      place.dataset.kind = found.kind;
    } catch (error) {
      if (error.name !== "AbortError") note.textContent = `The footprints cannot be shown: ${error.message}`;
    }
  }

  map.on("moveend", show);
  map.fitBounds(L.latLngBounds([[south, west], [north, east]]).pad(0.1));
})();
