// The microphone. It is opened for each recording and given back after it, so that a third one works like the first.

const WHY = {
  NotAllowedError: "The microphone was refused. Allow it beside the address of this page, or choose a recording.",
  NotFoundError: "No microphone was found. Connect one, or choose a recording.",
  NotReadableError: "Another program holds the microphone. Close it, or choose a recording.",
};
export const MAX_S = 30;

export async function record({ onTime, onLevel }) {
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
    throw new Error(window.isSecureContext
      ? "This browser cannot record. Choose a recording instead."
      : "Browsers let pages record only over https, or on the machine that serves them. Choose a recording instead.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  } catch (error) {
    throw new Error(WHY[error.name] || "The microphone cannot be used. Choose a recording instead.");
  }
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => { if (event.data.size) parts.push(event.data); });
  const meter = watchLevel(stream, onLevel);
  const began = performance.now();
  const clock = setInterval(() => {
    const seconds = (performance.now() - began) / 1000;
    onTime(seconds);
    if (seconds >= MAX_S) stop();
  }, 100);
  const stop = () => { if (recorder.state !== "inactive") recorder.stop(); };
  const done = new Promise((resolve) => {
    recorder.addEventListener("stop", () => {
      clearInterval(clock);
      meter();
      stream.getTracks().forEach((track) => track.stop());
      resolve(new Blob(parts, { type: recorder.mimeType }));
    });
  });
  recorder.start(250);
  return { stop, done };
}

function watchLevel(stream, onLevel) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  analyser.fftSize = 512;
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  let frame;
  const look = () => {
    analyser.getFloatTimeDomainData(samples);
    onLevel(Math.min(1, 6 * Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length)));
    frame = requestAnimationFrame(look);
  };
  look();
  return () => { cancelAnimationFrame(frame); onLevel(0); context.close(); };
}
