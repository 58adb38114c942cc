// Draws what report/charts.py describes. Each picture follows the width of its box and the colours of the page.
(() => {
  "use strict";
  const source = document.getElementById("charts");
  if (!source) return;
  const charts = new Map(JSON.parse(source.textContent).map((chart) => [chart.id, chart]));
  const drawn = new Map();
  const tones = 8;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const tone = (number) => colour(`--tone-${number % tones}`);
  const seeThrough = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");

  const plain = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
    return String(Number(value.toPrecision(4)));
  };
  const forms = {
    share: (value) => `${Number((100 * value).toPrecision(3))} %`,
    number: plain,
    count: (value) => Math.round(value).toLocaleString("en"),
    seconds: (value) => `${plain(value)} s`,
  };

  function options(chart, box) {
    const write = forms[chart.form];
    const ink = colour("--quiet");
    const grid = { stroke: colour("--line"), width: 1 };
    const bars = chart.series.some((one) => one.how === "bars");
    const step = chart.x.length > 1 ? chart.x[1] - chart.x[0] : 1;
    const series = [{ label: bars ? chart.x_label + " from" : chart.x_label, value: (_, v) => (v == null ? "–" : plain(v)) }];
    const data = [chart.x];
    const bands = [];
    const silent = [];
    const errors = [];
    const few = chart.x.length <= 60;
    for (const one of chart.series) {
      const stroke = tone(one.tone);
      const value = (_, v) => (v == null ? "–" : write(v));
      if (one.low && one.how !== "points") {
        bands.push({ series: [data.length, data.length + 1], fill: seeThrough(stroke, 0.16) });
        for (const end of [one.high, one.low]) {
          silent.push(data.length);
          series.push({ label: "", stroke: "transparent", width: 0, points: { show: false }, spanGaps: true });
          data.push(end);
        }
      }
      if (one.how === "points") errors.push({ place: data.length, one, stroke });
      const sparse = one.y.filter((v) => v != null).length <= 60;
      const shape = {
        label: one.label,
        value,
        stroke: one.how === "faint" ? seeThrough(stroke, 0.35) : stroke,
        width: one.how === "faint" ? 1 : one.how === "points" ? 0 : 2,
        dash: one.dashed ? [6, 4] : undefined,
        spanGaps: true,
        points: { show: one.how === "points" || (one.how === "line" && sparse && !one.dashed), size: one.how === "points" ? 9 : 5, fill: stroke },
      };
      if (one.how === "bars") {
        Object.assign(shape, {
          width: 1,
          fill: seeThrough(stroke, 0.35),
          paths: uPlot.paths.bars({ size: [1, Infinity], align: 1, gap: 1 }),
          points: { show: false },
        });
      }
      series.push(shape);
      data.push(one.y);
    }
    const opts = {
      width: Math.max(box.clientWidth, 200),
      height: box.parentElement.id === "learning" ? 300 : 208,
      scales: {
        x: { time: false, range: (_, low, high) => (bars ? [low, high + step] : low === high ? [low - 1, high + 1] : [low, high]) },
        y: {
          range: (_, low, high) => {
            if (low == null) return [0, 1];
            if (chart.form === "share" && !bars) return [Math.min(0, low), Math.max(high, high > 0.5 ? 1 : 0.01)];
            if (bars) return [0, high || 1];
            const pad = high === low ? Math.abs(high) * 0.1 || 1 : (high - low) * 0.08;
            return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
          },
        },
      },
      axes: [
        { stroke: ink, grid: { show: false }, ticks: grid, font: "12px system-ui, sans-serif", size: 32 },
        {
          stroke: ink,
          grid,
          ticks: { show: false },
          font: "12px system-ui, sans-serif",
          size: 58,
          values: (_, ticks) => ticks.map((v) => (v == null ? "" : write(v))),
        },
      ],
      series,
      bands,
      cursor: { drag: { x: true, y: false }, points: { size: 7 } },
      hooks: { draw: [(u) => intervals(u, errors)] },
    };
    return { opts, data, silent };
  }

  // The whiskers of evaluations that stand alone.
  function intervals(u, errors) {
    for (const { one, stroke } of errors) {
      if (!one.low) continue;
      const ctx = u.ctx;
      ctx.save();
      ctx.strokeStyle = stroke;
      ctx.lineWidth = 2 * devicePixelRatio;
      ctx.beginPath();
      one.low.forEach((low, i) => {
        if (low == null) return;
        const x = u.valToPos(u.data[0][i], "x", true);
        const from = u.valToPos(low, "y", true);
        const to = u.valToPos(one.high[i], "y", true);
        const cap = 5 * devicePixelRatio;
        ctx.moveTo(x, from);
        ctx.lineTo(x, to);
        for (const y of [from, to]) {
          ctx.moveTo(x - cap, y);
          ctx.lineTo(x + cap, y);
        }
      });
      ctx.stroke();
      ctx.restore();
    }
  }

  function draw(box) {
    const chart = charts.get(box.dataset.chart);
    if (!chart || !chart.x.length) return;
    drawn.get(box)?.destroy();
    const { opts, data, silent } = options(chart, box);
    const plot = new uPlot(opts, data, box);
    const rows = plot.root.querySelectorAll(".u-legend .u-series");
    for (const place of silent) rows[place].style.display = "none";
    drawn.set(box, plot);
  }

  // Left and right move along the line, Home and End to its ends, Escape goes back to the whole of it.
  function key(event) {
    const plot = drawn.get(event.currentTarget);
    const x = plot && plot.data[0];
    if (!x || !x.length) return;
    const now = plot.cursor.idx;
    const stride = event.shiftKey ? Math.max(1, Math.round(x.length / 20)) : 1;
    const to = {
      ArrowRight: now == null ? 0 : Math.min(now + stride, x.length - 1),
      ArrowLeft: now == null ? x.length - 1 : Math.max(now - stride, 0),
      Home: 0,
      End: x.length - 1,
    }[event.key];
    if (event.key === "Escape") plot.setData(plot.data);
    else if (to === undefined) return;
    else plot.setCursor({ left: plot.valToPos(x[to], "x"), top: plot.over.clientHeight / 2 });
    event.preventDefault();
    event.stopPropagation();
  }

  const boxes = [...document.querySelectorAll(".plot[data-chart]")];
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = drawn.get(target);
      if (plot && target.clientWidth && plot.width !== target.clientWidth) {
        plot.setSize({ width: target.clientWidth, height: plot.height });
      }
    }
  });
  // Far charts are drawn when they come near.
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        draw(entry.target);
        resized.observe(entry.target);
      }
    },
    { rootMargin: "600px" },
  );
  for (const box of boxes) {
    box.addEventListener("keydown", key);
    near.observe(box);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const box of [...drawn.keys()]) draw(box);
  });
  // Paper is light. Pictures have their colours from the page, which is told before the medium changes.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.printing = "";
    boxes.forEach(draw);
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.printing;
    [...drawn.keys()].forEach(draw);
  });
})();
