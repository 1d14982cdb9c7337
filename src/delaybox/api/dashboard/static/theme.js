// Before anything is drawn, so that a page does not flash in the other colours.
"use strict";
(() => {
  const wanted = localStorage.getItem("delaybox-theme");
  if (wanted === "light" || wanted === "dark") document.documentElement.dataset.theme = wanted;
})();
