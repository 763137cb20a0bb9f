(function () {
  "use strict";
  var shown = document.getElementById("left");
  var end = performance.now() + Number(shown.dataset.leftS) * 1000;
  setInterval(function () {
    var left = Math.max(0, Math.floor((end - performance.now()) / 1000));
    shown.textContent = Math.floor(left / 60) + ":" + String(left % 60).padStart(2, "0");
  }, 250);
})();
