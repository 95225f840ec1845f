"use strict";
(() => {
  const make = (tag, props = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), props);
    element.append(...inside);
    return element;
  };
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const GAIN = 8;

  // Errors

  const pixelsOf = (image) => {
    const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  };
  const errorMap = (image, truth) => {
    const a = pixelsOf(image), b = pixelsOf(truth);
    for (let i = 0; i < a.data.length; i += 4) {
      const luma = (d) => 0.257 * d[i] + 0.504 * d[i + 1] + 0.098 * d[i + 2];
      const error = GAIN * Math.abs(luma(a.data) - luma(b.data));
      a.data[i] = 2.2 * error;
      a.data[i + 1] = 1.5 * (error - 60);
      a.data[i + 2] = 2.5 * (error - 170);
    }
    const canvas = make("canvas", { width: a.width, height: a.height });
    canvas.getContext("2d").putImageData(a, 0, 0);
    return canvas;
  };

  // The layers of a scene or of a crop: an image each, and on demand its map of errors

  const layersOf = (block) => {
    const figures = [...block.querySelectorAll("figure")];
    const truth = figures.find((figure) => figure.dataset.kind === "truth");
    return figures.map((figure) => {
      const image = figure.querySelector("img");
      const [name, psnr] = ["span", "small"].map(
        (what) => figure.querySelector(`figcaption ${what}`)?.textContent ?? "");
      let map = null;
      const source = (errors) => {
        if (!errors || !truth || figure === truth) return image;
        map ??= errorMap(image, truth.querySelector("img"));
        return map;
      };
      return { figure, image, name, psnr, kind: figure.dataset.kind, source,
        strong: figure.classList.contains("strong") };
    });
  };

  const paint = (canvas, source, x, y, side) => {
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(source, x, y, side, side, 0, 0, canvas.width, canvas.height);
  };

  // The viewer

  class Viewer {
    constructor(root, isError) {
      this.isError = isError;
      this.scenes = [...root.querySelectorAll(".scene")].map((block) => ({
        block, layers: layersOf(block), name: block.dataset.name,
        top: Number(block.dataset.top), left: Number(block.dataset.left),
        x: Number(block.dataset.x) - Number(block.dataset.left),
        y: Number(block.dataset.y) - Number(block.dataset.top),
      }));
      this.divide = 50;
      this.zoom = 6;
      this.pinned = false;
      this.build(root);
      this.show(0);
    }

    build(root) {
      const select = (label, options) => {
        const list = make("select", { ariaLabel: label });
        options.forEach(([value, text]) => list.append(make("option", { value, textContent: text })));
        return list;
      };
      this.image = select("Image", this.scenes.map((scene, n) => [n, scene.name]));
      this.sides = [select("Left", []), select("Right", [])];
      this.size = select("Magnification of the lens", [3, 4, 6, 8, 12].map((z) => [z, `${z}×`]));
      this.size.value = String(this.zoom);
      const field = (text, control) => make("label", { textContent: `${text} ` }, control);
      this.tools = make("div", { className: "tools" },
        ...(this.scenes.length > 1 ? [field("Image", this.image)] : []),
        field("Left", this.sides[0]), field("Right", this.sides[1]), field("Lens", this.size));
      this.under = make("canvas");
      this.over = make("canvas", { className: "over" });
      this.tags = [make("span", { className: "tag" }), make("span", { className: "tag right" })];
      this.handle = make("span", { className: "handle" });
      this.frame = make("button", { className: "frame", type: "button",
        ariaLabel: "Place under the lens: arrow keys move it" });
      this.stage = make("div", { className: "stage" },
        this.under, this.over, this.handle, ...this.tags, this.frame);
      this.range = make("input", { type: "range", min: 0, max: 100, step: 1, value: this.divide,
        className: "divide" });
      const help = make("p", { className: "legend tip", textContent:
        "Drag over the image, or use the slider, to compare. The lens shows one place in every " +
        "output: point at it, tap or click to keep it, or move the frame with the arrow keys." });
      this.lens = make("div", { className: "lens" });
      const main = make("div", { className: "main" }, this.stage, this.range, help);
      this.panel = make("div", { className: "panel" }, main, this.lens);
      root.append(this.tools, this.panel);
      root.classList.add("live");
      this.listen();
    }

    listen() {
      this.image.addEventListener("change", () => this.show(Number(this.image.value)));
      this.sides.forEach((side) => side.addEventListener("change", () => this.draw()));
      this.size.addEventListener("change", () => { this.zoom = Number(this.size.value); this.look(); });
      this.range.addEventListener("input", () => this.split(Number(this.range.value)));
      const stage = this.stage;
      let from = null, dragged = false;
      stage.addEventListener("pointerdown", (event) => {
        from = event.clientX; dragged = false;
        stage.setPointerCapture(event.pointerId);
      });
      stage.addEventListener("pointermove", (event) => {
        const box = stage.getBoundingClientRect();
        if (from === null) {
          if (event.pointerType === "mouse" && !this.pinned) this.point(event);
          return;
        }
        dragged ||= Math.abs(event.clientX - from) > 4;
        if (dragged) this.split(clamp(100 * (event.clientX - box.left) / box.width, 0, 100));
      });
      const end = (event) => {
        if (from !== null && !dragged && event.type === "pointerup") {
          this.pinned = event.pointerType === "mouse" ? !this.pinned : true;
          this.frame.classList.toggle("pinned", this.pinned);
          this.point(event);
        }
        from = null;
      };
      stage.addEventListener("pointerup", end);
      stage.addEventListener("pointercancel", end);
      this.frame.addEventListener("keydown", (event) => {
        const by = event.shiftKey ? 16 : 4;
        const move = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by],
          ArrowDown: [0, by] }[event.key];
        if (!move) return;
        event.preventDefault();
        this.pinned = true;
        this.place(this.scene.x + move[0], this.scene.y + move[1]);
      });
      new ResizeObserver(() => this.look()).observe(this.panel);
    }

    show(number) {
      this.scene = this.scenes[number];
      this.image.value = String(number);
      const { layers } = this.scene;
      const find = (test) => layers.findIndex(test);
      const kept = this.sides.map((side) => side.selectedOptions[0]?.dataset.name);
      const last = layers.map((layer) => layer.kind).lastIndexOf("student");
      const strong = find((layer) => layer.strong);
      const usual = [0, strong >= 0 ? strong : last >= 0 ? last : layers.length - 1];
      this.sides.forEach((side, n) => {
        side.replaceChildren(...layers.map((layer, i) => {
          const option = make("option", { value: i, textContent: layer.name });
          option.dataset.name = layer.name;
          return option;
        }));
        const before = find((layer) => layer.name === kept[n]);
        side.value = String(before >= 0 ? before : usual[n]);
      });
      this.lens.replaceChildren(...layers.map((layer) => {
        const canvas = make("canvas", { role: "img", ariaLabel: `Lens on ${layer.name}` });
        const caption = make("figcaption", {}, make("span", { textContent: layer.name }),
          make("small", { textContent: layer.psnr }));
        layer.glass = canvas;
        return make("figure", { className: layer.strong ? "strong" : "" }, canvas, caption);
      }));
      this.draw();
    }

    draw() {
      const { layers } = this.scene;
      const shown = this.sides.map((side) => layers[Number(side.value)]);
      const errors = this.isError();
      [this.over, this.under].forEach((canvas, n) => {
        const source = shown[n].source(errors);
        canvas.width = shown[n].image.naturalWidth;
        canvas.height = shown[n].image.naturalHeight;
        canvas.getContext("2d").drawImage(source, 0, 0);
        this.tags[n].textContent = [shown[n].name, shown[n].psnr].filter(Boolean).join(" · ");
      });
      this.range.ariaLabel = `Divider between ${shown[0].name} and ${shown[1].name}`;
      this.split(this.divide);
      this.place(this.scene.x, this.scene.y);
    }

    split(percent) {
      this.divide = percent;
      this.range.value = String(percent);
      this.range.ariaValueText = `${Math.round(percent)} % of ${this.sides[0].selectedOptions[0].text}`;
      this.over.style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
      this.handle.style.left = `${percent}%`;
    }

    point(event) {
      const box = this.stage.getBoundingClientRect();
      this.place((event.clientX - box.left) / box.width * this.under.width,
        (event.clientY - box.top) / box.height * this.under.height);
    }

    place(x, y) {
      this.scene.x = clamp(x, 0, this.under.width);
      this.scene.y = clamp(y, 0, this.under.height);
      this.look();
    }

    look() {
      const { layers, x, y } = this.scene;
      const wide = layers[0].glass.clientWidth;
      if (!wide) return;
      const { width, height } = this.under;
      const side = Math.min(Math.max(4, Math.round(wide / this.zoom)), width, height);
      const left = clamp(Math.round(x - side / 2), 0, width - side);
      const top = clamp(Math.round(y - side / 2), 0, height - side);
      const errors = this.isError(), dots = Math.round(wide * (window.devicePixelRatio || 1));
      layers.forEach((layer) => {
        if (layer.glass.width !== dots) layer.glass.width = layer.glass.height = dots;
        paint(layer.glass, layer.source(errors), left, top, side);
      });
      Object.assign(this.frame.style, { left: `${100 * left / width}%`,
        top: `${100 * top / height}%`, width: `${100 * side / width}%`,
        height: `${100 * side / height}%` });
    }

    visit(scene, x, y) {
      const found = this.scenes[scene];
      this.pinned = true;
      this.show(scene);
      this.place(x - found.left, y - found.top);
      this.panel.scrollIntoView({ block: "center" });
      this.frame.focus({ preventScroll: true });
    }
  }

  const images = (section) => {
    const pieces = [...section.querySelectorAll(".piece")];
    const box = make("input", { type: "checkbox" });
    const hasTruth = section.querySelector('[data-kind="truth"]');
    const root = section.querySelector(".viewer");
    const viewer = new Viewer(root, () => box.checked);
    if (hasTruth) {
      const label = make("label", { className: "switch" }, box,
        ` Errors: difference of the luma from the ground truth, times ${GAIN}`);
      section.querySelector(".pieces").before(label);
    }
    pieces.forEach((piece) => {
      const layers = layersOf(piece);
      box.addEventListener("change", () => layers.forEach((layer) => {
        layer.map ??= layer.source(true);
        if (layer.map === layer.image) return;
        layer.image.replaceWith(layer.map);
        layer.map.replaceWith(box.checked ? layer.map : layer.image);
      }));
      const go = make("button", { type: "button", className: "link", textContent: "in the image" });
      const { scene, x, y } = piece.dataset;
      go.addEventListener("click", () => viewer.visit(Number(scene), Number(x), Number(y)));
      piece.querySelector("h3").append(" ", go);
    });
    box.addEventListener("change", () => viewer.draw());
  };

  // Charts: the values at one step, by pointer, touch and keyboard

  const chart = (svg) => {
    const dots = [...svg.querySelectorAll(".dot")].map((dot) => ({
      dot, x: Number(dot.getAttribute("cx")), text: dot.querySelector("title").textContent }));
    if (!dots.length) return;
    const places = [...new Set(dots.map(({ x }) => x))].sort((a, b) => a - b);
    const line = svg.querySelector(".cursor");
    const out = make("p", { className: "values", ariaLive: "polite" });
    svg.after(out);
    svg.setAttribute("tabindex", "0");
    let at = places.length - 1;
    const show = (n) => {
      at = clamp(n, 0, places.length - 1);
      const x = places[at];
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      svg.classList.add("read");
      const here = dots.filter((dot) => Math.abs(dot.x - x) < 0.05);
      dots.forEach(({ dot }) => dot.classList.toggle("on", here.some((h) => h.dot === dot)));
      out.textContent = here.map(({ text }) => text).join("   ");
    };
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      show(places.reduce((best, place, n) =>
        Math.abs(place - x) < Math.abs(places[best] - x) ? n : best, 0));
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("focus", () => show(at));
    svg.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: places.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(to);
    });
  };

  // Tables that are wider than the screen

  const wide = (box) => {
    const see = () => {
      const more = box.scrollWidth > box.clientWidth + 1;
      box.classList.toggle("more", more);
      if (more) box.setAttribute("tabindex", "0"); else box.removeAttribute("tabindex");
    };
    new ResizeObserver(see).observe(box);
    see();
  };

  document.querySelectorAll("#images").forEach((section) => {
    const all = [...section.querySelectorAll("img")];
    Promise.all(all.map((image) => image.decode().catch(() => null))).then(() => images(section));
  });
  document.querySelectorAll("svg.chart").forEach(chart);
  document.querySelectorAll(".wide").forEach(wide);
  document.documentElement.classList.add("scripted");
})();
