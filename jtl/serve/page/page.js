// Names of classes and files are other people's: they only ever become text, never markup.

const AT_ONCE = 4; // Requests at the same time: the server computes together what comes together.
const MOST_TRIES = 8;
const $ = (id) => document.getElementById(id);
const cards = $("cards");
let model = {};
const waiting = [];
let running = 0;

function percent(share) {
  if (share > 0 && share < 0.01) return "<1 %";
  if (share > 0.99 && share < 1) return ">99 %";
  return `${Math.round(100 * share)} %`;
}

function counted(count, noun, plural = `${noun}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? noun : plural}`;
}

function say(text) {
  $("status").textContent = text;
}

// What the server is.

async function start() {
  try {
    model = await (await fetch("about")).json();
    $("name").textContent = model.name;
    document.title = `${model.name} · jtl`;
    const what = model.task === "multilabel" ? ", several per image" : "";
    const unsure = model.abstain ? ` · “not sure” below ${percent(model.abstain)}` : "";
    $("about").textContent =
      `${counted(model.classes.length, "class", "classes")}${what}: ` +
      `${model.classes.slice(0, 6).join(", ")}${model.classes.length > 6 ? ", …" : ""}${unsure}`;
    $("about").title = model.classes.slice(0, 200).join(", ");
  } catch {
    $("about").textContent = "The server cannot be reached.";
  }
  showExamples();
}

async function showExamples(tries = 20) {
  let found = [];
  try {
    found = (await (await fetch("examples")).json()).examples;
  } catch {
    return;
  }
  if (!found.length) {
    // The server may still be reading them.
    if (tries) setTimeout(() => showExamples(tries - 1), 1500);
    return;
  }
  for (const example of found) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = `Labelled ${example.label}`;
    const image = document.createElement("img");
    image.src = example.url;
    image.alt = `Try ${example.name}, labelled ${example.label}`;
    button.append(image);
    button.addEventListener("click", async () => {
      const blob = await (await fetch(example.url)).blob();
      add([new File([blob], example.name, { type: blob.type })], example.label);
    });
    const item = document.createElement("li");
    item.append(button);
    $("example-list").append(item);
  }
  $("examples").hidden = false;
}

// A card for each image.

function add(files, label = null) {
  const made = [...files].map((file) => card(file, label));
  if (!made.length) return;
  $("results").hidden = false;
  cards.prepend(...made.map((one) => one.item));
  say(`${counted(made.length, "image")} sent`);
  made.forEach((one) => waiting.push(one));
  next();
  made[0].item.scrollIntoView({ block: "nearest" });
}

function card(file, label) {
  const item = $("card").content.cloneNode(true).firstElementChild;
  const part = (name) => item.querySelector(name);
  const one = { file, label, item, part, url: URL.createObjectURL(file), explained: null };
  const image = part("img");
  image.src = one.url;
  image.addEventListener("load", () => {
    image.classList.toggle("tiny", image.naturalWidth < 64);
  });
  image.addEventListener("error", () => {
    image.hidden = true;
    part(".no-preview").hidden = false;
  });
  part(".file").textContent = file.name;
  part(".file").title = file.name;
  part(".why").addEventListener("click", () => explain(one));
  part(".again").addEventListener("click", () => {
    part(".again").hidden = true;
    part(".verdict").className = "verdict";
    part(".verdict").replaceChildren(Object.assign(document.createElement("span"), { className: "wait" }));
    waiting.push(one);
    next();
    part(".remove").focus();
  });
  part(".remove").addEventListener("click", () => remove(one));
  part(".remove").setAttribute("aria-label", `Remove ${file.name}`);
  item.forget = () => {
    one.removed = true;
    URL.revokeObjectURL(one.url);
    if (one.explained) URL.revokeObjectURL(one.explained);
  };
  return one;
}

function remove(one) {
  const neighbour = one.item.nextElementSibling ?? one.item.previousElementSibling;
  one.item.forget();
  one.item.remove();
  (neighbour?.querySelector(".remove") ?? $("choose")).focus();
  $("results").hidden = !cards.children.length;
  say(`${one.file.name} removed`);
}

// Asking the server.

function next() {
  while (running < AT_ONCE && waiting.length) {
    const one = waiting.shift();
    if (one.removed) continue;
    running += 1;
    predict(one).finally(() => {
      running -= 1;
      next();
    });
  }
}

async function send(address, file) {
  const most = model.limits?.request_bytes ?? Infinity;
  if (file.size + 1000 > most) {
    throw new Error(`It has more than ${Math.floor(most / 1e6)} MB, which is the most this server takes.`);
  }
  for (let tries = 1; ; tries += 1) {
    const form = new FormData();
    form.append("image", file, file.name || "image");
    let answer;
    try {
      answer = await fetch(address, { method: "POST", body: form });
    } catch {
      throw Object.assign(new Error("The server cannot be reached."), { again: true });
    }
    if (answer.ok) return answer;
    if (answer.status === 503 && tries < MOST_TRIES) {
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((done) => setTimeout(done, 1000 * Math.min(seconds, 10)));
      continue;
    }
    const content = await answer.json().catch(() => ({}));
    const said = content.predictions?.[0]?.error ?? content.error ?? `The server answered ${answer.status}.`;
    throw Object.assign(new Error(said), { again: answer.status >= 500 });
  }
}

async function predict(one) {
  try {
    const answer = await send("predict", one.file);
    show(one, (await answer.json()).predictions[0]);
  } catch (error) {
    verdict(one, `${error.message.charAt(0).toUpperCase()}${error.message.slice(1)}`, "bad");
    one.part(".again").hidden = !error.again;
    say(`${one.file.name}: ${error.message}`);
  }
}

function verdict(one, text, kind = "") {
  const place = one.part(".verdict");
  place.className = `verdict ${kind}`.trim();
  place.removeAttribute("aria-hidden");
  place.textContent = text;
}

function show(one, found) {
  const [first] = found.classes;
  const several = found.labels !== undefined;
  const details = [];
  if (several) {
    verdict(one, found.labels.join(" · ") || "None of the classes", found.labels.length ? "" : "unsure");
  } else if (found.abstains) {
    verdict(one, "Not sure", "unsure");
    const share = (100 * first.probability).toFixed(1);
    details.push(`Likeliest: ${first.class}, with ${share} % of the ${percent(model.abstain)} needed.`);
  } else {
    verdict(one, first.class);
  }
  if (found.unusual) details.push("Unlike the images it was trained on, so this may mean little.");
  if (one.label !== null) details.push(`Labelled ${one.label}.`);
  if (found.note) details.push(found.note);
  one.part(".detail").textContent = details.join(" ");
  one.part(".detail").hidden = !details.length;
  const bars = found.classes.map((row, rank) => {
    const bar = $("bar").content.cloneNode(true).firstElementChild;
    bar.classList.toggle("first", several ? found.labels.includes(row.class) : rank === 0 && !found.abstains);
    bar.querySelector(".label").textContent = row.class;
    bar.querySelector(".share").textContent = percent(row.probability);
    return [bar, bar.querySelector(".fill"), row.probability];
  });
  one.part(".bars").replaceChildren(...bars.map(([bar]) => bar));
  one.part(".bars").hidden = false;
  // From nothing, so that they grow.
  requestAnimationFrame(() => requestAnimationFrame(() => {
    for (const [, fill, share] of bars) fill.style.width = `${100 * share}%`;
  }));
  one.part("img").alt = one.file.name;
  one.part(".why").hidden = !model.explains;
  one.part(".why").setAttribute("aria-label", `Show which regions of ${one.file.name} led to this`);
  const answer = several
    ? found.labels.join(", ") || "none of the classes"
    : `${found.abstains ? "not sure, likeliest " : ""}${first.class}, ${percent(first.probability)}`;
  say(`${one.file.name}: ${answer}`);
}

async function explain(one) {
  const button = one.part(".why");
  const image = one.part("img");
  const caption = one.part(".caption");
  const on = button.getAttribute("aria-pressed") !== "true";
  if (button.getAttribute("aria-busy") === "true") return;
  if (on && !one.explained) {
    // Not disabled, or it would lose the focus.
    button.setAttribute("aria-busy", "true");
    button.textContent = "Looking …";
    try {
      one.explained = URL.createObjectURL(await (await send("explain", one.file)).blob());
    } catch (error) {
      button.textContent = "Show why";
      caption.textContent = error.message;
      caption.hidden = false;
      say(error.message);
      return;
    } finally {
      button.setAttribute("aria-busy", "false");
    }
  }
  button.setAttribute("aria-pressed", String(on));
  button.textContent = on ? "Hide why" : "Show why";
  one.item.classList.toggle("wide", on);
  image.src = on ? one.explained : one.url;
  image.hidden = false;
  one.part(".no-preview").hidden = true;
  image.alt = on ? `${one.file.name} as the network sees it; coloured regions led to this prediction` : one.file.name;
  caption.textContent = "As the network sees it. Coloured regions led to this prediction.";
  caption.hidden = !on;
  if (on) say(caption.textContent);
}

// Ways in: choosing, the camera, dropping, pasting.

for (const id of ["choose", "camera"]) {
  $(id).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = ""; // So that the same file can be chosen again.
  });
}
$("clear").addEventListener("click", () => {
  for (const item of cards.children) item.forget();
  cards.replaceChildren();
  $("results").hidden = true;
  $("choose").focus();
  say("All results removed");
});

let inside = 0;
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
const dragging = (on) => document.body.classList.toggle("dragging", on);
window.addEventListener("dragenter", (event) => {
  if (hasFiles(event)) dragging(++inside > 0);
});
window.addEventListener("dragleave", (event) => {
  if (hasFiles(event)) dragging(--inside > 0);
});
window.addEventListener("dragover", (event) => {
  if (hasFiles(event)) event.preventDefault();
});
window.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  inside = 0;
  dragging(false);
  add(event.dataTransfer.files);
});
window.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) add(event.clipboardData.files);
});
if (matchMedia("(hover: none) and (pointer: coarse)").matches) {
  $("drop-title").textContent = "Which class is it?";
  $("ways").textContent = "Choose images or take a photo";
}

start();
