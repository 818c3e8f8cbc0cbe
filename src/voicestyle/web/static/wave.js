// A recording as bars; those in which speech was found are drawn strong.

const SVG = "http://www.w3.org/2000/svg";

export function drawWave(svg, { seconds, peaks, speech }) {
  const width = 3 * peaks.length;
  svg.setAttribute("viewBox", `0 0 ${width} 60`);
  svg.replaceChildren(...peaks.map((peak, i) => {
    const bar = document.createElementNS(SVG, "rect");
    const at = ((i + 0.5) / peaks.length) * seconds;
    const height = Math.max(2, 58 * peak);
    const shape = { x: 3 * i, y: 30 - height / 2, width: 2, height, rx: 1 };
    for (const [name, value] of Object.entries(shape)) bar.setAttribute(name, value);
    if (speech.some(([from, to]) => from <= at && at <= to)) bar.setAttribute("class", "speech");
    return bar;
  }));
}

// The bars of a file, before the server has heard it; nothing where the browser cannot decode it.
export async function peaksOf(blob, count = 120) {
  const context = new OfflineAudioContext(1, 1, 16000);
  const audio = await context.decodeAudioData(await blob.arrayBuffer());
  const samples = audio.getChannelData(0);
  const peaks = Array.from({ length: count }, (_, i) => {
    let peak = 0;
    const end = Math.floor(((i + 1) * samples.length) / count);
    for (let j = Math.floor((i * samples.length) / count); j < end; j += 1) peak = Math.max(peak, Math.abs(samples[j]));
    return peak;
  });
  const top = Math.max(...peaks) || 1;
  return { seconds: audio.duration, peaks: peaks.map((peak) => peak / top), speech: [] };
}
