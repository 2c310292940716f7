"use strict";
// Everything of the study's is set as text, never as markup.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const element = (tag, text, ...children) => {
    const made = document.createElement(tag);
    if (text !== null) made.textContent = text;
    made.append(...children);
    return made;
  };

  // Figures
  const plots = [...document.querySelectorAll("[data-figure]")];
  const hidden = new Set();
  const colours = () => {
    const ink = getComputedStyle(document.body).color;
    const lines = { gridcolor: "rgba(128,128,128,.25)", zerolinecolor: "rgba(128,128,128,.4)" };
    return { ink, lines };
  };
  const layout = (spec) => {
    const { ink, lines } = colours();
    const legend = { orientation: "h", traceorder: "normal", yanchor: "bottom", y: 1.02, x: 0 };
    return {
      height: 420,
      hovermode: "closest",
      ...spec.layout,
      font: { color: ink, family: "system-ui, sans-serif", size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { t: 30, r: 10, b: 50, l: 60 },
      legend,
      xaxis: { automargin: true, ...lines, ...spec.layout.xaxis },
      yaxis: { automargin: true, ...lines, ...spec.layout.yaxis },
    };
  };
  // A trace is of one group, or each of its bars is.
  const traces = (spec) =>
    spec.data.map((trace) => {
      if (!Array.isArray(trace.meta)) return { ...trace, visible: !hidden.has(trace.meta) };
      const kept = (values) => values.filter((_, place) => !hidden.has(trace.meta[place]));
      return { ...trace, x: kept(trace.x), y: kept(trace.y), customdata: kept(trace.customdata) };
    });
  const draw = (plot) => {
    const spec = page.figures[plot.dataset.figure];
    const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
    return Plotly.react(plot, traces(spec), layout(spec), options);
  };
  for (const plot of plots) {
    draw(plot).then(() => {
      plot.on("plotly_click", (event) => openTrial(event.points[0].customdata));
      plot.dataset.drawn = "yes";
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(draw));

  for (const group of page.groups) {
    const box = element("input", null);
    box.type = "checkbox";
    box.checked = true;
    box.value = group;
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(group);
      else hidden.add(group);
      plots.forEach(draw);
    });
    byId("groups").append(element("label", null, box, ` ${group}`));
  }

  // A trial
  const openTrial = (key) => {
    const trial = page.trials[key];
    if (!trial) return;
    byId("trial-label").textContent = trial.label;
    const facts = trial.facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]);
    byId("trial-facts").replaceChildren(...facts);
    const answer = page.answers.find((each) => each.trial === key);
    byId("trial-samples").hidden = !answer;
    byId("trial-samples").onclick = () => {
      byId("trial").close();
      choose(answer);
      byId("samples").scrollIntoView();
    };
    byId("trial").showModal();
  };
  byId("trial-close").addEventListener("click", () => byId("trial").close());

  // Responses
  if (!page.answers.length) return;
  const keyOf = (row) => JSON.stringify([row.benchmark, row.prompt_id]);
  const questions = new Map(page.questions.map((question) => [keyOf(question), question]));
  const samples = page.answers.map((answer) => ({ ...questions.get(keyOf(answer)), ...answer }));
  const outcomes = {
    all: () => true,
    wins: (value) => value !== null && value > 0.5,
    ties: (value) => value === 0.5,
    losses: (value) => value !== null && value < 0.5,
    "not judged": (value) => value === null,
  };
  const verdict = (value) => {
    if (value === null) return "not judged";
    if (value === 0.5) return "a tie";
    return `${value > 0.5 ? "wins" : "loses"} (${Number(value.toPrecision(3))} of 1)`;
  };
  const controls = { benchmark: byId("by-benchmark"), model: byId("by-model"), outcome: byId("by-outcome") };
  const fill = (select, names) => select.replaceChildren(...names.map((name) => new Option(name, name)));
  const unique = (values) => [...new Set(values)];
  let place = 0;
  const found = () => {
    const words = byId("by-text").value.toLowerCase();
    return samples.filter(
      (sample) =>
        sample.benchmark === controls.benchmark.value &&
        sample.model === controls.model.value &&
        outcomes[controls.outcome.value](sample.outcome) &&
        [sample.question, sample.response, sample.baseline].some((text) => (text ?? "").toLowerCase().includes(words)),
    );
  };
  const show = (next) => {
    const chosen = found();
    place = Math.max(0, Math.min(next, chosen.length - 1));
    byId("place").textContent = chosen.length ? `${place + 1} of ${chosen.length}` : "none";
    byId("before").disabled = place === 0;
    byId("after").disabled = place >= chosen.length - 1;
    byId("sample").hidden = !chosen.length;
    if (!chosen.length) return;
    const sample = chosen[place];
    const benchmark = page.benchmarks.find((each) => each.name === sample.benchmark);
    byId("question").textContent = sample.question;
    byId("response-of").textContent = sample.model;
    byId("response").textContent = sample.response;
    byId("baseline-of").textContent = `baseline: ${benchmark.baseline}`;
    byId("baseline").textContent = sample.baseline ?? "";
    byId("baseline-side").hidden = sample.baseline === null;
    byId("verdict").textContent = `${benchmark.label}: ${verdict(sample.outcome)}`;
    const orders = [["first", sample.first, sample.first_comment], ["second", sample.second, sample.second_comment]];
    const said = orders.filter(([, value, comment]) => value !== null || comment !== null);
    const comments = said.map(([order, value, comment]) =>
      element("div", null, element("h4", `Shown ${order}: ${verdict(value)}`), element("pre", comment ?? "no comment")),
    );
    byId("comments").replaceChildren(...comments);
  };
  const models = () => unique(samples.filter((s) => s.benchmark === controls.benchmark.value).map((s) => s.model));
  const choose = (answer) => {
    controls.benchmark.value = answer.benchmark;
    fill(controls.model, models());
    controls.model.value = answer.model;
    controls.outcome.value = "all";
    byId("by-text").value = "";
    show(0);
  };
  fill(controls.benchmark, unique(samples.map((sample) => sample.benchmark)));
  fill(controls.model, models());
  fill(controls.outcome, Object.keys(outcomes));
  controls.benchmark.addEventListener("change", () => fill(controls.model, models()));
  for (const control of Object.values(controls)) control.addEventListener("change", () => show(0));
  byId("by-text").addEventListener("input", () => show(0));
  byId("before").addEventListener("click", () => show(place - 1));
  byId("after").addEventListener("click", () => show(place + 1));
  show(0);
})();
