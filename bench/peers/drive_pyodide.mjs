// Drives Pyodide under node or deno. The protocol is that of `peers/process.py`.
import { createInterface } from "node:readline";
import { cpuUsage, stdin } from "node:process";
import { loadPyodide } from "pyodide";

const pyodide = await loadPyodide();
const programs = new Map();

const handlers = {
  // A new interpreter in the process that is there; a new process for each would take longer.
  async fresh() {
    const start = performance.now();
    (await loadPyodide()).runPython("x = 1");
    return (performance.now() - start) / 1000;
  },
  prepare({ name, source }) {
    const globals = pyodide.runPython("dict(__name__='program')");
    pyodide.runPython(source, { globals });
    programs.set(name, globals);
    return 0;
  },
  program({ name }) {
    const globals = programs.get(name);
    const start = cpuUsage();
    pyodide.runPython("answer = run()", { globals });
    const used = cpuUsage(start);
    return (used.user + used.system) / 1e6;
  },
};

console.log("ready");
for await (const line of createInterface({ input: stdin })) {
  const request = JSON.parse(line);
  try {
    console.log(JSON.stringify({ value: await handlers[request.do](request) }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error).trim().split("\n").pop() }));
  }
}
