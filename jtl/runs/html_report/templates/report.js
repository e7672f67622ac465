"use strict";
// The page shows everything without this. With it, cells open in place and the map shows images.
document.documentElement.classList.add("scripted");

// The confusion matrix: the images behind a cell, without leaving the place.
const links = [...document.querySelectorAll(".matrix a")];
let open = null;
function toggle(link) {
  if (open) {
    open.classList.remove("open");
    document.getElementById(open.getAttribute("href").slice(1)).classList.remove("open");
  }
  open = open === link ? null : link;
  if (!open) return;
  open.classList.add("open");
  const behind = document.getElementById(open.getAttribute("href").slice(1));
  behind.classList.add("open");
  behind.scrollIntoView({ block: "nearest" });
}
for (const link of links) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    toggle(link);
  });
}
const asked = links.find((link) => link.getAttribute("href") === location.hash);
if (asked) toggle(asked);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && open) {
    const last = open;
    toggle(open);
    last.focus();
  }
});

// The map: the image under the pointer, and one class by itself.
const map = document.querySelector(".map");
if (map) {
  const hover = document.getElementById("hover");
  const [image, told] = hover.children;
  const titles = new Map();
  for (const point of map.querySelectorAll(".point")) {
    // Or the browser shows it, too.
    const title = point.querySelector("title");
    titles.set(point, title.textContent);
    title.remove();
  }
  map.addEventListener("pointerover", (event) => {
    const point = event.target.closest(".point");
    hover.hidden = !point;
    if (!point) return;
    image.className = `image${point.dataset.row ? ` i${point.dataset.row}` : ""}`;
    image.hidden = !point.dataset.row;
    told.textContent = titles.get(point);
    const whole = map.getBoundingClientRect();
    const at = point.getBoundingClientRect();
    const left = at.right - whole.left + 6;
    const top = at.bottom - whole.top + 6;
    hover.style.left = `${Math.max(0, Math.min(left, whole.width - hover.offsetWidth))}px`;
    hover.style.top = `${top + hover.offsetHeight > whole.height ? Math.max(0, top - hover.offsetHeight - at.height - 12) : top}px`;
  });
  map.addEventListener("pointerleave", () => { hover.hidden = true; });
  const keys = [...document.querySelectorAll(".keys button")];
  for (const key of keys) {
    key.disabled = false;
    key.setAttribute("aria-pressed", "false");
    key.addEventListener("click", () => {
      const on = key.getAttribute("aria-pressed") !== "true";
      for (const other of keys) other.setAttribute("aria-pressed", String(on && other === key));
      for (const point of titles.keys()) {
        point.classList.toggle("dim", on && point.dataset.class !== key.dataset.class);
      }
    });
  }
}
