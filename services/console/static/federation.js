// Live parts of the page Federation, from server-sent events. The stream ends with the page.
"use strict";
(() => {
  const live = document.getElementById("live");
  if (!live || !live.dataset.events) return;
  const journal = document.getElementById("journal");
  const state = document.getElementById("state");
  let last = 0;
  const stream = new EventSource(live.dataset.events);
  const on = (kind, act) => stream.addEventListener(kind, (event) => act(JSON.parse(event.data)));

  stream.addEventListener("open", () => { live.textContent = "Live: changes appear by themselves."; live.dataset.live = "yes"; });
  stream.addEventListener("error", () => {
    live.dataset.live = "no";
    live.textContent = stream.readyState === EventSource.CLOSED
      ? "Not live: the service refuses a further live page, or cannot be reached. Reload the page to try again."
      : "The connection was lost; it is opened again.";
  });
  // The text is rendered and escaped by the server. The focus stays on its link, as a keyboard needs it.
  function renew(place, html) {
    if (!place) return;
    const focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    place.innerHTML = html;
    if (focused) place.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }

  on("table", ({ name, html }) => renew(document.getElementById(`table-${name}`), html));
  on("line", ({ text, sequence }) => {
    if (!journal || sequence <= last) return;
    last = sequence;
    const lines = journal.textContent.split("\n").filter(Boolean);
    journal.textContent = [...lines, text].slice(-Number(journal.dataset.lines)).join("\n");
    journal.scrollTop = journal.scrollHeight;
  });
  on("state", ({ html }) => renew(state, html));
  on("charts", ({ charts }) => {
    const place = document.querySelector("[data-charts]");
    if (place && window.eoforgeCharts) window.eoforgeCharts.draw(place, charts);
  });
  on("problem", ({ text }) => { live.textContent = `Not live: ${text}`; live.dataset.live = "no"; stream.close(); });
  on("end", () => { live.textContent = "The run has ended."; stream.close(); });
  addEventListener("pagehide", () => stream.close());
})();
