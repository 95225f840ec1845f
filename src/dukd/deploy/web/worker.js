"use strict";
// Runs in a thread of its own, below onnxruntime-web: tiles that overlap by the network's radius.
(() => {
  let session = null, facts = null;

  const open = async ({ model, wasm, module, providers, facts: given }) => {
    facts = given;
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.proxy = false;
    // made here: a page that was opened from a file has no origin, and shares no addresses with us
    const address = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
    ort.env.wasm.wasmPaths = { mjs: address };
    ort.env.wasm.wasmBinary = wasm;
    ort.env.logLevel = "error";
    session = await ort.InferenceSession.create(model, { executionProviders: providers });
  };

  const planes = ({ width, data }, top, bottom, from, to) => {
    const h = bottom - top, w = to - from, x = new Float32Array(3 * h * w);
    for (let c = 0; c < 3; c++) {
      for (let row = 0; row < h; row++) {
        const source = 4 * ((top + row) * width + from) + c, target = (c * h + row) * w;
        for (let i = 0; i < w; i++) x[target + i] = data[source + 4 * i] / 255;
      }
    }
    return new ort.Tensor("float32", x, [1, 3, h, w]);
  };

  const tile = async (image, y, x, side) => {
    const { width, height } = image, s = facts.scale, halo = facts.radius ?? 0;
    const bottom = Math.min(y + side, height), right = Math.min(x + side, width);
    const top = Math.max(0, y - halo), from = Math.max(0, x - halo);
    const input = planes(image, top, Math.min(height, bottom + halo), from, Math.min(width, right + halo));
    const made = (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]];
    const [, , h, w] = made.dims, out = made.data;
    const rows = (bottom - y) * s, columns = (right - x) * s;
    const pixels = new Uint8ClampedArray(4 * rows * columns);
    for (let row = 0; row < rows; row++) {
      const source = (row + (y - top) * s) * w + (x - from) * s;
      for (let i = 0; i < columns; i++) {
        const target = 4 * (row * columns + i);
        for (let c = 0; c < 3; c++) {
          // to the even of two levels that are equally near, as elsewhere in dukd
          pixels[target + c] = 255 * out[c * h * w + source + i];
        }
        pixels[target + 3] = 255;
      }
    }
    made.dispose?.();
    return { x: x * s, y: y * s, width: columns, height: rows, pixels };
  };

  const enlarge = async (image, port) => {
    const side = facts.radius === null ? Math.max(image.width, image.height) : facts.tile;
    const places = [];
    for (let y = 0; y < image.height; y += side) {
      for (let x = 0; x < image.width; x += side) places.push([y, x]);
    }
    for (const [i, [y, x]] of places.entries()) {
      const part = await tile(image, y, x, side);
      const answer = new Promise((resolve) => { port.onmessage = resolve; });
      port.postMessage({ ...part, done: i + 1, tiles: places.length }, [part.pixels.buffer]);
      if ((await answer).data.stop) break;
    }
    port.postMessage({ finished: true });
  };

  onmessage = async ({ data, ports: [port] }) => {
    if (data.model) {
      try {
        await open(data);
        postMessage({ ready: true });
      } catch (error) {
        postMessage({ error: `The engine does not start: ${error.message}` });
      }
      return;
    }
    try {
      await enlarge(data.image, port);
    } catch (error) {
      port.postMessage({ error: `The image could not be enlarged: ${error.message}` });
    }
  };
})();
