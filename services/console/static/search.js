// Search page: the box that is drawn on the map, or taken from its view, becomes the field of the form.
"use strict";

document.addEventListener("eoforge:maps", () => {
  const element = document.getElementById("map"), field = document.getElementById("bbox");
  const map = EoforgeMap.of(element), button = document.getElementById("draw-box");
  let corner = null, outline = null;

  const show = (box) => {
    if (outline) outline.remove();
    outline = box ? L.rectangle(box, { color: EoforgeMap.colour("focus"), weight: 2, dashArray: "6 4", fill: false, interactive: false }).addTo(map) : null;
  };
  const set = (box) => {
    const round = (value) => Number(value.toFixed(5));
    field.value = box ? [box.getWest(), box.getSouth(), box.getEast(), box.getNorth()].map(round).join(",") : "";
    show(box);
  };
  const drawing = (on) => {
    button.setAttribute("aria-pressed", String(on));
    element.classList.toggle("crosshair", on);
    if (on) map.dragging.disable(); else map.dragging.enable();
    corner = null;
  };

  button.addEventListener("click", () => drawing(button.getAttribute("aria-pressed") !== "true"));
  map.on("mousedown", (event) => { if (button.getAttribute("aria-pressed") === "true") corner = event.latlng; });
  map.on("mousemove", (event) => { if (corner) show(L.latLngBounds(corner, event.latlng)); });
  map.on("mouseup", (event) => { if (corner) { set(L.latLngBounds(corner, event.latlng)); drawing(false); field.form.requestSubmit(); } });
  document.getElementById("view-box").addEventListener("click", () => set(map.getBounds()));
  document.getElementById("clear-box").addEventListener("click", () => set(null));
  const given = field.value.split(",").map(Number);
  if (given.length === 4) show([[given[1], given[0]], [given[3], given[2]]]);
});
