"use strict";
// Plain functions over one state object. Episodes come in through DIGIQ.put, from inside the page or from data/N.js.
const DIGIQ = (() => {
  const KEPT = 48; // episodes held; the browser itself keeps the images
  const $ = (id) => document.getElementById(id);
  const state = { at: -1, step: 0, critic: 0, beside: "", marks: true, whole: false, playing: null };
  const loaded = new Map(), waiting = new Map();
  let index = null, shown = [], drawn = 0, inside = false;

  // ---- data ----
  function put(key, episode) {
    loaded.set(key, episode);
    const told = waiting.get(key);
    if (told) { waiting.delete(key); told.resolve(episode); }
    if (!index.started) inside = true;
  }
  function load(key) {
    if (loaded.has(key)) {
      const episode = loaded.get(key);
      if (!inside) { loaded.delete(key); loaded.set(key, episode); } // youngest last
      return Promise.resolve(episode);
    }
    if (waiting.has(key)) return waiting.get(key).promise;
    const entry = {};
    entry.promise = new Promise((resolve, reject) => { entry.resolve = resolve; entry.reject = reject; });
    waiting.set(key, entry);
    const script = document.createElement("script");
    script.src = `data/${key}.js?${index.version || ""}`;
    script.onload = () => script.remove();
    script.onerror = () => { waiting.delete(key); script.remove(); entry.reject(new Error(`data/${key}.js cannot be read`)); };
    document.head.append(script);
    while (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
    return entry.promise;
  }
  const source = (img) => (img.startsWith("data:") ? img : `${img}?${index.version || ""}`);
  const ahead = []; // images on their way, so that nothing collects them
  function fetchAhead(episode, from, to) {
    for (let n = Math.max(0, from); n <= Math.min(to, episode.steps.length - 1); n++) {
      const image = new Image();
      image.src = source(episode.steps[n].img);
      ahead.push(image);
    }
    while (ahead.length > 60) ahead.shift();
  }

  // ---- small helpers ----
  const node = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === false || value == null) continue;
      if (name === "style") made.style.cssText = value; else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((c) => c != null));
    return made;
  };
  const svg = (tag, attributes = {}, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const number = (value, digits = 3) => (value == null ? "–" : (Math.abs(value) < 5e-4 ? 0 : value).toFixed(digits));
  const signed = (value) => (value == null ? "–" : (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3));
  const tone = (outcome) => (outcome === "success" ? "o-success" : outcome === "failure" ? "o-failure" : "o-other");
  // Viridis at five places: it grows steadily lighter, for people who see colours differently as well.
  const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  function colour(t) {
    const x = Math.min(1, Math.max(0, t)) * (STOPS.length - 1), i = Math.min(Math.floor(x), STOPS.length - 2);
    const mix = STOPS[i].map((a, c) => Math.round(a + (STOPS[i + 1][c] - a) * (x - i)));
    const light = (0.299 * mix[0] + 0.587 * mix[1] + 0.114 * mix[2]) > 140;
    return { fill: `rgb(${mix})`, ink: light ? "#111" : "#fff" };
  }
  const options = (select, pairs, chosen) => {
    select.replaceChildren(...pairs.map(([value, text]) => node("option", { value, selected: value === chosen }, text)));
  };

  // ---- what a state's candidates come to under a critic ----
  function ranked(step, critic) {
    const lines = step.cand.map((c) => ({ ...c, value: c.q[critic] ?? null }));
    lines.sort((a, b) => (b.value ?? -Infinity) - (a.value ?? -Infinity));
    let rank = 0;
    for (const line of lines) line.rank = line.value == null ? null : ++rank;
    const best = lines.find((line) => line.ok && line.value != null) || null;
    if (best) best.best = true;
    return { lines, best, v: step.v[critic] ?? null };
  }
  // Colours show what a critic chooses by, the differences within a state; along an episode the chart shows Q.
  function range(steps, critic) {
    let low = Infinity, high = -Infinity;
    for (const step of steps) for (const c of step.cand) {
      const q = c.q[critic];
      if (q != null) { low = Math.min(low, q); high = Math.max(high, q); }
    }
    return low <= high ? { low, high, of: (q) => (high > low ? (q - low) / (high - low) : 1) } : null;
  }

  // ---- list and filters ----
  function matches() {
    const text = $("search").value.trim().toLowerCase(), by = $("differs").value;
    const wanted = { source: $("source").value, outcome: $("outcome").value, split: $("split").value };
    const found = [];
    index.episodes.forEach((e, key) => {
      if (wanted.source !== "" && String(e.source) !== wanted.source) return;
      if (wanted.outcome !== "" && e.outcome !== wanted.outcome) return;
      if (wanted.split !== "" && e.split !== wanted.split) return;
      if (text && !`${e.goal}\n${e.task}\n${e.id}`.toLowerCase().includes(text)) return;
      if (by === "apart" && !e.apart) return;
      if (by === "logged" && !(e.differs[state.critic] > 0)) return;
      if (by === "agrees" && e.differs[state.critic] !== 0) return;
      found.push(key);
    });
    const order = $("order").value, of = (k) => index.episodes[k];
    if (order === "long") found.sort((a, b) => of(b).steps - of(a).steps);
    if (order === "differs") found.sort((a, b) => share(of(b)) - share(of(a)));
    return found;
  }
  const share = (e) => (e.differs.length ? e.differs[state.critic] : e.apart) / Math.max(e.steps, 1);
  function list() {
    shown = matches();
    const rows = shown.slice(0, 2000).map((key) => {
      const e = index.episodes[key];
      const differs = e.differs[state.critic] || 0;
      const note = differs ? `≠ ${differs}` : e.apart ? "≠" : "";
      return node("li", { "data-key": key, class: key === state.at ? "here" : "", title: e.id },
        node("span", { class: "g" }, e.goal || e.id),
        node("span", { class: "f" }, node("span", { class: tone(e.outcome) }, e.outcome.replaceAll("_", " ")),
          node("span", {}, `${e.steps} steps`), node("span", { class: "s" }, index.sources[e.source].arm ? index.sources[e.source].title : e.split),
          node("span", { class: "d", title: "steps at which the critic ranks another action first" }, note)));
    });
    if (shown.length > 2000) rows.push(node("li", { class: "soft" }, `and ${shown.length - 2000} more: narrow the filters`));
    $("list").replaceChildren(...rows);
    $("count").textContent = `${shown.length} of ${index.episodes.length}`;
  }
  function markHere(scroll) {
    for (const row of $("list").querySelectorAll(".here")) row.classList.remove("here");
    const row = $("list").querySelector(`[data-key="${state.at}"]`);
    if (row) { row.classList.add("here"); if (scroll) row.scrollIntoView({ block: "nearest" }); }
  }

  // ---- what can stand beside the episode ----
  function besides() {
    const own = index.episodes[state.at], pairs = [["", "nothing"]];
    const critics = index.sources[own.source].critics;
    critics.forEach((name, n) => { if (n !== state.critic && critics.length > 1) pairs.push([`c${n}`, `critic ${name}`]); });
    const others = [];
    index.episodes.forEach((e, key) => {
      if (key === state.at) return;
      if (e.id === own.id && e.source !== own.source) others.unshift([key, e, ""]);
      else if (own.task && e.task === own.task && others.length < 40) others.push([key, e, " · another try"]);
    });
    for (const [key, e, note] of others) {
      pairs.push([`e${key}`, `${index.sources[e.source].title} · ${e.outcome.replaceAll("_", " ")}${note}`]);
    }
    return pairs;
  }

  // ---- one pane ----
  function pane(episode, key, critic, number, title) {
    const about = index.episodes[key], last = episode.steps.length - 1, at = Math.min(number, last);
    const step = episode.steps[at], scale = range(state.whole ? episode.steps : [step], critic), found = ranked(step, critic);
    const image = node("img", { alt: `screen ${at}`, decoding: "sync" });
    image.src = source(step.img);
    const screen = node("div", { class: "screen" }, image);
    if (state.marks) screen.append(marks(episode, step, found, scale));
    const box = node("section", { class: "pane", "data-key": key, "data-step": at });
    if (title) box.append(node("h2", {}, title, node("span", { class: tone(about.outcome) }, about.outcome.replaceAll("_", " ")),
      number > last ? node("span", { class: "soft" }, `ended after ${about.steps} steps`) : null));
    const known = found.lines.some((line) => line.value != null || line.lp != null);
    const chart = node("div", { class: "plot" });
    box.append(screen, node("div", { class: "side" }, said(step, found, about), known ? table(found, scale) : null,
      scale && scale.high > scale.low ? legend(scale) : null, chart));
    // The chart is as wide as its place, which is known once that is on the page.
    return { box, image, finish: () => plot(chart, episode, critic, at) };
  }
  function said(step, found, about) {
    const line = node("p", { class: "line" });
    if (step.act) line.append(node("span", {}, about.differs.length || !index.sources[about.source].arm ? "logged: " : "did: ", node("b", { class: "did" }, step.act.s)));
    else line.append(node("span", { class: "soft" }, "the last screen"));
    if (step.r) line.append(node("span", { class: "yes" }, `reward ${step.r}`));
    if (found.v != null) line.append(node("span", { title: "value of the state" }, "V ", node("b", {}, number(found.v))));
    if (found.best && found.v != null) {
      const gap = found.best.value - found.v, gate = index.gate, passes = gate && gap > gate.threshold;
      line.append(node("span", { class: passes ? "yes" : "", title: gate ? `extraction imitates it above ${gate.threshold}` : "" },
        `best Q − V ${signed(gap)}${gate ? (passes ? " ✓ imitated" : " not imitated") : ""}`));
    }
    if (step.lp != null) line.append(node("span", { class: "soft", title: "of the logged action" }, `log p ${number(step.lp, 2)}`));
    if (step.note) line.append(node("span", { class: "soft" }, step.note));
    return line;
  }
  function marks(episode, step, found, scale) {
    const [height, width] = episode.hw, tall = 100 * height / width, r = Math.max(3.4, tall / 62);
    const layer = svg("svg", { viewBox: `0 0 100 ${tall}`, class: "marks", "aria-hidden": "true" });
    const at = (p) => [p[1] * 100, p[0] * tall];
    const drawnLast = [...found.lines].reverse(); // the best lies on top
    for (const line of drawnLast) {
      if (!line.p) continue;
      const tint = line.value == null || !scale ? { fill: "#888", ink: "#fff" } : colour(scale.of(line.value));
      const [x, y] = at(line.p), group = svg("g", { opacity: line.ok ? 1 : 0.55 });
      if (line.p2) {
        const [x2, y2] = at(line.p2);
        arrow(group, x, y, x2, y2, "#fff", 2.6); arrow(group, x, y, x2, y2, tint.fill, 1.5);
      }
      if (line.logged) group.append(svg("circle", { cx: x, cy: y, r: r + 1.9, class: "logged" }));
      group.append(svg("circle", { cx: x, cy: y, r: r + 0.5, class: "halo", "stroke-width": line.best ? 1.5 : 0.8 }));
      group.append(svg("circle", { cx: x, cy: y, r, fill: tint.fill }));
      const label = svg("text", { x, y, fill: tint.ink });
      label.textContent = line.rank ?? "";
      group.append(label);
      layer.append(group);
    }
    if (!found.lines.length && step.act && step.act.p) {
      const [x, y] = at(step.act.p);
      if (step.act.p2) { const [x2, y2] = at(step.act.p2); arrow(layer, x, y, x2, y2, "#fff", 2.8); arrow(layer, x, y, x2, y2, "#ff9f1a", 1.6); }
      layer.append(svg("circle", { cx: x, cy: y, r: r + 0.7, class: "halo", "stroke-width": 1.2 }), svg("circle", { cx: x, cy: y, r, fill: "#ff9f1a" }));
    }
    return layer;
  }
  function arrow(parent, x, y, x2, y2, stroke, width) {
    const angle = Math.atan2(y2 - y, x2 - x), wing = 4.6;
    const tip = [-2.6, 2.6].map((d) => `${x2 + wing * Math.cos(angle + d)},${y2 + wing * Math.sin(angle + d)}`);
    parent.append(svg("path", { d: `M${x},${y}L${x2},${y2}M${tip[0]}L${x2},${y2}L${tip[1]}`, fill: "none", stroke, "stroke-width": width, "stroke-linecap": "round", "stroke-linejoin": "round" }));
  }
  function table(found, scale) {
    const mixed = found.lines.some((line) => line.from), known = found.lines.some((line) => line.lp != null);
    const head = ["", "candidate", "Q", "Q − V", ...(known ? ["log p"] : []), "×", ...(mixed ? ["from"] : []), ""];
    const rows = found.lines.map((line) => {
      const tint = line.value == null || !scale ? { fill: "#8888", ink: "inherit" } : colour(scale.of(line.value));
      const dot = node("span", { class: "dot", style: `background:${tint.fill};color:${tint.ink}` }, line.rank ?? "–");
      const advantage = line.value != null && found.v != null ? line.value - found.v : null;
      return node("tr", { class: `${line.ok && line.value != null ? "" : "out"} ${line.best ? "best" : ""}` },
        ...[dot, line.s, number(line.value), signed(advantage), ...(known ? [line.lp == null ? "–∞" : number(line.lp, 2)] : []),
          line.n > 1 ? String(line.n) : "", ...(mixed ? [line.from || ""] : []),
          `${line.best ? "★" : ""}${line.logged ? "●" : ""}`].map((cell) => node("td", {}, cell)));
    });
    return node("div", { class: "table" }, node("table", {}, node("thead", {}, node("tr", {}, ...head.map((h) => node("th", {}, h)))), node("tbody", {}, ...rows)));
  }
  function legend(scale) {
    const stops = STOPS.map((s) => `rgb(${s})`).join(",");
    return node("p", { class: "scale" }, node("span", {}, `Q ${number(scale.low, 2)}`), node("i", { style: `background:linear-gradient(90deg,${stops})` }), node("span", {}, `${number(scale.high, 2)} in this ${state.whole ? "episode" : "state"}`));
  }
  function plot(place, episode, critic, at) {
    const points = episode.steps.map((step) => {
      const found = ranked(step, critic), logged = found.lines.find((line) => line.logged);
      return { best: found.best ? found.best.value : null, logged: logged ? logged.value : null, v: found.v };
    });
    const series = [["best", "best Q", "var(--blue)", ""], ["logged", "Q of what was done", "var(--amber)", ""], ["v", "V", "var(--grey)", "4 3"]]
      .filter(([name]) => points.some((p) => p[name] != null));
    if (!series.length) return;
    const values = points.flatMap((p) => Object.values(p)).filter((v) => v != null);
    let low = Math.min(...values), high = Math.max(...values);
    if (high - low < 1e-6) { low -= 0.5; high += 0.5; }
    const W = Math.max(place.clientWidth, 120), H = 116, left = 34, x = (n) => left + (W - left - 10) * (points.length > 1 ? n / (points.length - 1) : 0.5);
    const y = (v) => 8 + (H - 26) * (high - v) / (high - low);
    const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Q along the episode" });
    drawing.append(svg("line", { x1: x(at), x2: x(at), y1: 2, y2: H - 16, stroke: "var(--ink)", "stroke-opacity": 0.35, "stroke-width": 1.5 }));
    for (const [name, , stroke, dash] of series) {
      let d = "", pen = "M";
      points.forEach((p, n) => { if (p[name] == null) { pen = "M"; } else { d += `${pen}${x(n).toFixed(1)},${y(p[name]).toFixed(1)}`; pen = "L"; } });
      drawing.append(svg("path", { d, fill: "none", stroke, "stroke-width": 2, "stroke-dasharray": dash }));
      if (points[at][name] != null) drawing.append(svg("circle", { cx: x(at), cy: y(points[at][name]), r: 4, fill: stroke }));
    }
    for (const [v, dy] of [[high, 8], [low, 0]]) {
      const label = svg("text", { x: 0, y: y(v) + dy });
      label.textContent = v.toFixed(2);
      drawing.append(label);
    }
    drawing.addEventListener("click", (event) => {
      const box = drawing.getBoundingClientRect(), along = (event.clientX - box.left) / box.width * W;
      go(Math.round((along - left) / (W - left - 10) * (points.length - 1)));
    });
    const key = node("div", { class: "key" }, ...series.map(([, text, stroke, dash]) =>
      node("span", {}, node("i", { style: `border-color:${stroke};border-style:${dash ? "dashed" : "solid"}` }), text)));
    place.append(drawing, key);
  }

  // ---- drawing ----
  async function draw(scroll = false) {
    const turn = ++drawn, key = state.at, number = state.step;
    if (key < 0) return;
    const about = index.episodes[key];
    try {
      const episode = await load(key);
      const other = state.beside.startsWith("e") ? Number(state.beside.slice(1)) : null;
      const second = other == null ? null : await load(other);
      if (turn !== drawn) return; // a later key was faster
      const critics = index.sources[about.source].critics, critic = Math.min(state.critic, Math.max(critics.length - 1, 0));
      const named = (n) => `critic ${critics[n]}`;
      const panes = [];
      let longest = episode.steps.length;
      if (second) {
        longest = Math.max(longest, second.steps.length);
        panes.push(pane(episode, key, critic, number, index.sources[about.source].title));
        const theirs = index.episodes[other];
        panes.push(pane(second, other, Math.min(critic, Math.max(index.sources[theirs.source].critics.length - 1, 0)), number, index.sources[theirs.source].title));
      } else if (state.beside.startsWith("c")) {
        const n = Number(state.beside.slice(1));
        panes.push(pane(episode, key, critic, number, named(critic)), pane(episode, key, n, number, named(n)));
      } else panes.push(pane(episode, key, critic, number, ""));
      $("panes").className = panes.length > 1 ? "both" : "";
      $("goal").textContent = about.goal || about.id;
      $("badge").textContent = about.outcome.replaceAll("_", " ");
      $("badge").className = `badge ${tone(about.outcome)}`;
      $("facts").textContent = [about.task, about.split, episode.policy, about.id].filter((v, i, all) => v && all.indexOf(v) === i).join(" · ");
      $("where").textContent = index.sources[about.source].title;
      $("scrub").max = longest - 1; $("scrub").value = number;
      $("at").textContent = `${number} / ${longest - 1}`;
      state.longest = longest;
      await Promise.all(panes.map((p) => p.image.decode().catch(() => {})));
      if (turn !== drawn) return;
      $("panes").replaceChildren(...panes.map((p) => p.box));
      for (const p of panes) p.finish();
      if (scroll) markHere(true);
      remember();
      requestAnimationFrame(() => requestAnimationFrame(() => {
        document.dispatchEvent(new CustomEvent("digiq:painted", { detail: { key, step: number, time: performance.now() } }));
      }));
      fetchAhead(episode, number - 1, number + 3);
      if (second) fetchAhead(second, number - 1, number + 3);
      const place = shown.indexOf(key);
      for (const near of [shown[place + 1], shown[place - 1]]) if (near != null) load(near).then((e) => fetchAhead(e, 0, 0), () => {});
    } catch (error) {
      if (turn === drawn) $("panes").replaceChildren(node("p", { class: "empty" }, String(error.message || error)));
    }
  }
  function remember() {
    const words = [`e=${state.at}`, `s=${state.step}`];
    if (state.critic) words.push(`c=${state.critic}`);
    if (state.beside) words.push(`b=${state.beside}`);
    history.replaceState(null, "", `#${words.join("&")}`);
  }
  function go(step) {
    const top = (state.longest || 1) - 1;
    state.step = Math.min(Math.max(step, 0), top);
    return draw();
  }
  function show(key, step = 0, keep = false) {
    if (key == null || !index.episodes[key]) return;
    state.at = key; state.step = step;
    const own = index.episodes[key], critics = index.sources[own.source].critics;
    options($("critic"), critics.map((name, n) => [String(n), name]), String(state.critic));
    $("critic-label").hidden = critics.length < 2;
    const pairs = besides();
    if (!keep) {
      // From one pair of arms to the same pair on the next task, where there is one.
      const before = state.besideSource;
      const same = before == null ? null : pairs.find(([value]) => value.startsWith("e") && index.episodes[value.slice(1)].source === before);
      if (state.beside.startsWith("e")) state.beside = same ? same[0] : "";
    }
    if (!pairs.some(([value]) => value === state.beside)) state.beside = "";
    options($("beside"), pairs, state.beside);
    draw(true);
  }
  function beside(value) {
    state.beside = value;
    state.besideSource = value.startsWith("e") ? index.episodes[value.slice(1)].source : null;
    $("beside").value = value;
    draw();
  }
  function episodeBy(offset) {
    const place = shown.indexOf(state.at);
    const next = place < 0 ? 0 : Math.min(Math.max(place + offset, 0), shown.length - 1);
    if (shown[next] !== state.at) show(shown[next]);
  }
  function play() {
    if (state.playing) { clearInterval(state.playing); state.playing = null; return; }
    if (state.step >= state.longest - 1) go(0);
    state.playing = setInterval(() => {
      if (state.step >= state.longest - 1) play(); else go(state.step + 1);
    }, 700);
  }

  // ---- keys ----
  const KEYS = {
    ArrowRight: () => go(state.step + 1), ArrowLeft: () => go(state.step - 1), ArrowDown: () => episodeBy(1), ArrowUp: () => episodeBy(-1),
    j: () => episodeBy(1), k: () => episodeBy(-1), Home: () => go(0), End: () => go(Infinity), " ": play,
    c: () => { const all = [...$("beside").options].map((o) => o.value); beside(all[(all.indexOf(state.beside) + 1) % all.length]); },
    s: () => { state.whole = !state.whole; draw(); }, m: () => { state.marks = !state.marks; draw(); }, "/": () => { $("side").classList.add("open"); $("search").focus(); }, "?": () => $("help").showModal(),
  };
  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const typing = event.target.matches("input[type=search], select");
    if (typing) { if (event.key === "Escape" || event.key === "Enter") { event.target.blur(); $("main").focus(); } return; }
    if (event.target.matches("button") && event.key === " ") return;
    const act = KEYS[event.key];
    if (act) { event.preventDefault(); act(); }
  }

  function start() {
    index.started = true;
    const of = (name) => [...new Set(index.episodes.map((e) => e[name]))].filter(Boolean).sort();
    options($("source"), [["", "every source"], ...index.sources.map((s, n) => [String(n), s.title])], "");
    options($("outcome"), [["", "any outcome"], ...of("outcome").map((o) => [o, o.replaceAll("_", " ")])], "");
    options($("split"), [["", "any split"], ...of("split").map((s) => [s, s])], "");
    const differs = [["", "agreement"]];
    if (index.episodes.some((e) => e.differs.length)) differs.push(["logged", "critic ≠ log"], ["agrees", "critic = log"]);
    if (index.episodes.some((e) => e.apart)) differs.push(["apart", "critics or arms differ"]);
    options($("differs"), differs, "");
    options($("order"), [["", "as recorded"], ["differs", "most disagreement"], ["long", "longest first"]], "");
    for (const id of ["search", "source", "outcome", "split", "differs", "order"]) {
      $(id).addEventListener("input", () => { list(); if (!shown.includes(state.at) && shown.length) show(shown[0]); });
    }
    $("list").addEventListener("click", (event) => {
      const row = event.target.closest("[data-key]");
      if (row) { show(Number(row.dataset.key)); toggle(false); }
    });
    $("critic").addEventListener("change", (event) => { state.critic = Number(event.target.value); list(); show(state.at, state.step); });
    $("beside").addEventListener("change", (event) => beside(event.target.value));
    $("scrub").addEventListener("input", (event) => go(Number(event.target.value)));
    $("back").addEventListener("click", () => go(state.step - 1));
    $("next").addEventListener("click", () => go(state.step + 1));
    $("help-open").addEventListener("click", () => $("help").showModal());
    const toggle = (open) => { $("side").classList.toggle("open", open); $("list-toggle").setAttribute("aria-expanded", $("side").classList.contains("open")); };
    $("list-toggle").addEventListener("click", () => toggle());
    document.addEventListener("keydown", onKey);
    list();
    if (!index.episodes.length) { $("panes").replaceChildren(node("p", { class: "empty" }, "no episodes")); return; }
    const said = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    const key = index.episodes[said.e] ? Number(said.e) : shown[0];
    state.critic = Number(said.c) || 0; state.beside = said.b || "";
    if (/^e\d+$/.test(state.beside) && index.episodes[state.beside.slice(1)]) state.besideSource = index.episodes[state.beside.slice(1)].source;
    show(key, Number(said.s) || 0, true);
  }
  return { index: (given) => { index = given; }, put, start };
})();
