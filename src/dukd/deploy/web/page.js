"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const facts = JSON.parse(at("facts").textContent);
  const LONGEST = 16384, MOST = 120e6;  // what browsers draw: pixels of a side, and of a canvas
  let engine = null, stopped = false, name = "image", address = "";

  const say = (text) => { at("status").textContent = text; };
  const show = (part) => {
    for (const id of ["drop", "work", "result"]) at(id).hidden = id !== part;
  };
  const fail = (text) => {
    at("error").textContent = text;
    at("error").hidden = !text;
    if (text) show("drop");
  };

  // What is packed into the page: base64, the engine compressed as well

  const bytes = (id) => Uint8Array.from(atob(at(id).textContent), (c) => c.charCodeAt(0));
  const unpacked = async (id) => {
    const stream = new Blob([bytes(id)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const text = async (id) => new TextDecoder().decode(await unpacked(id));

  // The engine works in a thread of its own, so that the page stays alive

  const started = () => engine ??= (async () => {
    const scripts = [await text("engine"), await text("worker")];
    const worker = new Worker(URL.createObjectURL(new Blob(scripts, { type: "text/javascript" })));
    const ready = new Promise((resolve, reject) => {
      worker.onerror = (event) => reject(new Error(event.message || "the engine does not start"));
      worker.onmessage = ({ data }) => data.error ? reject(new Error(data.error)) : resolve(data);
    });
    worker.postMessage({
      model: await unpacked("model"), wasm: await unpacked("wasm"), facts,
      module: await unpacked("module"),
      providers: facts.webgpu && navigator.gpu ? ["webgpu", "wasm"] : ["wasm"],
    });
    await ready;
    return worker;
  })();

  // (width, height, data): RGBA of 8 bits; gives the same of scale times the size

  const enlarge = async (image, progress = () => {}) => {
    const worker = await started();
    const s = facts.scale;
    const result = new ImageData(image.width * s, image.height * s);
    const { port1, port2 } = new MessageChannel();
    const finished = new Promise((resolve, reject) => {
      port1.onmessage = ({ data }) => {
        if (data.error) return reject(new Error(data.error));
        if (data.finished) return resolve(!stopped);
        const { x, y, width, height, pixels, done, tiles } = data;
        for (let row = 0; row < height; row++) {
          const part = pixels.subarray(4 * row * width, 4 * (row + 1) * width);
          result.data.set(part, 4 * ((y + row) * result.width + x));
        }
        progress(done, tiles);
        port1.postMessage({ stop: stopped });
      };
    });
    worker.postMessage({ image: { width: image.width, height: image.height, data: image.data } },
      [port2]);
    if (!await finished) return null;
    return result;
  };

  const decoded = async (blob) => {
    const bitmap = await createImageBitmap(blob).catch(() => null);
    if (!bitmap) throw new Error("This file is no image that your browser reads.");
    const s = facts.scale, { width, height } = bitmap;
    if (Math.max(width, height) * s > LONGEST || width * height * s * s > MOST) {
      throw new Error(`An image of ${width} × ${height} pixels would be ${width * s} × ` +
        `${height * s}, more than a browser draws: cut it, or use dukd upscale.`);
    }
    if (facts.most && width * height > facts.most) {
      throw new Error(`This student looks at whole images, at most ${facts.most / 1e6} million ` +
        `pixels here, but this one has ${width} × ${height}: use dukd upscale.`);
    }
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  };

  // Transparency is enlarged by the browser

  const withAlpha = (result, image) => {
    let opaque = true;
    for (let i = 3; i < image.data.length && opaque; i += 4) opaque = image.data[i] === 255;
    if (opaque) return result;
    const mask = new ImageData(image.width, image.height);
    for (let i = 3; i < image.data.length; i += 4) mask.data[i] = image.data[i];
    const small = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    small.getContext("2d").putImageData(mask, 0, 0);
    const large = Object.assign(document.createElement("canvas"), { width: result.width, height: result.height });
    const context = large.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, result.width, result.height);
    const alpha = context.getImageData(0, 0, result.width, result.height).data;
    for (let i = 3; i < alpha.length; i += 4) result.data[i] = alpha[i];
    return result;
  };

  const served = async (blob) => {
    const response = await fetch("upscale", { method: "POST", body: blob });
    if (!response.ok) throw new Error(await response.text());
    return decodedAny(await response.blob());
  };
  const decodedAny = async (blob) => {
    const bitmap = await createImageBitmap(blob);
    const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    return { data: context.getImageData(0, 0, bitmap.width, bitmap.height), blob };
  };

  const left = (seconds) => seconds > 90 ? `${Math.round(seconds / 60)} minutes left`
    : `${Math.ceil(seconds)} seconds left`;

  const take = async (blob, called) => {
    fail("");
    stopped = false;
    name = (called || "image").replace(/\.[^.]*$/, "");
    show("work");
    at("progress").value = 0;
    say(facts.served ? "Enlarging on this machine…" : "Starting the engine…");
    try {
      const image = await decoded(blob);
      const begun = performance.now();
      let result, ready = null;
      if (facts.served) {
        at("progress").removeAttribute("value");
        ({ data: result, blob: ready } = await served(blob));
      } else {
        await started();
        say("Enlarging…");
        const first = performance.now();
        result = await enlarge(image, (done, tiles) => {
          at("progress").value = done / tiles;
          const rest = (performance.now() - first) / done * (tiles - done) / 1000;
          say(done < tiles ? `Enlarging, ${left(rest)}` : "Ready");
        });
        if (!result) return show("drop");
        withAlpha(result, image);
      }
      await present(image, result, ready, (performance.now() - begun) / 1000);
    } catch (error) {
      fail(error.message);
    }
  };

  const present = async (image, result, ready, seconds) => {
    const after = at("after"), before = at("before");
    for (const canvas of [after, before]) {
      canvas.width = result.width;
      canvas.height = result.height;
    }
    after.getContext("2d").putImageData(result, 0, 0);
    const small = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    small.getContext("2d").putImageData(image, 0, 0);
    const context = before.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, result.width, result.height);
    const blob = ready ?? await new Promise((resolve) => after.toBlob(resolve, "image/png"));
    URL.revokeObjectURL(address);
    address = URL.createObjectURL(blob);
    Object.assign(at("save"), { href: address, download: `${name}_x${facts.scale}.png` });
    at("done").textContent =
      `${image.width} × ${image.height} to ${result.width} × ${result.height} in ${seconds.toFixed(1)} s`;
    divide(500);
    show("result");
    at("divider").focus({ preventScroll: true });
  };

  const divide = (value) => {
    at("divider").value = value;
    at("stage").style.setProperty("--at", `${value / 10}%`);
  };

  at("divider").addEventListener("input", (event) => divide(event.target.value));
  at("size").addEventListener("click", () => {
    const actual = at("stage").classList.toggle("actual");
    at("size").setAttribute("aria-pressed", actual);
  });
  at("again").addEventListener("click", () => { at("file").value = ""; show("drop"); at("drop").focus(); });
  at("stop").addEventListener("click", () => { stopped = true; say("Stopping…"); });
  at("file").addEventListener("change", ({ target: { files: [file] } }) => file && take(file, file.name));
  at("drop").addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); at("file").click(); }
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragover");
      const file = kind === "drop" && event.dataTransfer.files[0];
      if (file) take(file, file.name);
    });
  }
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((f) => f.type.startsWith("image/"));
    if (file) take(file, file.name);
  });
  window.dukd = { enlarge, take, facts };
})();
