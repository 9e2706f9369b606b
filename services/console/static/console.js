// What every page needs: words for screen readers after a part of the page changed, and errors of htmx shown as pages.
"use strict";

const say = (text) => { document.getElementById("status").textContent = text; };

document.addEventListener("htmx:afterSettle", () => {
  const heading = document.querySelector("[data-announce]");
  if (heading) say(heading.textContent.trim());
});

// An error is a page of ours: it takes the place of the part that was asked for.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  if (xhr.status < 400 || xhr.getResponseHeader("HX-Redirect")) return;
  const found = new DOMParser().parseFromString(xhr.responseText, "text/html").querySelector(".problem");
  if (!found) return;
  event.preventDefault();
  const target = event.detail.target;
  target.replaceChildren(document.adoptNode(found));
  say(found.textContent.trim());
});

document.addEventListener("htmx:sendError", () => say("The console cannot be reached. Try again."));
