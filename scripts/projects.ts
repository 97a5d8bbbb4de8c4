// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Type-checks a program that uses the package in projects of its users, whose
 * options are not ours: TypeScript's own compiler over the packed types, and
 * Deno without any option. `scripts/npm` has to have run.
 *
 * @module
 */

const checkout = new URL("..", import.meta.url).pathname;
const program = Deno.readTextFileSync(`${checkout}test/fixtures/project/main.ts`);

/** Where `scripts/npm` keeps its tools, and TypeScript among them. */
function tools(): string {
  const found = [...Deno.readDirSync(`${checkout}.cache`)].map(({ name }) =>
    `${checkout}.cache/${name}`
  )
    .filter((path) => /\/bundler-\d+$/.test(path))
    .find((path) => exists(`${path}/node_modules/typescript/lib/tsc.js`));
  if (found === undefined) throw new Error("there is no TypeScript: run scripts/npm first");
  return `${found}/node_modules`;
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

/** By name: what stands in a tsconfig.json, beside what every project on Node has. */
const TYPESCRIPT: Readonly<Record<string, Record<string, unknown>>> = {
  "nothing strict": { strict: false },
  "strict, with the DOM and exact optional properties": {
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    lib: ["es2022", "esnext.disposable", "dom", "dom.iterable", "dom.asynciterable"],
  },
};

/** Null where the command succeeds, else what it said. */
async function fails(command: string, args: string[], cwd: string): Promise<string | null> {
  const { success, stdout, stderr } = await new Deno.Command(command, {
    args,
    cwd,
    env: { NO_COLOR: "1" },
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return success ? null : text(stdout) + text(stderr);
}

/** A project with the program; `files` beside it, by name. */
function project(name: string, files: Record<string, unknown>): string {
  const folder = `${all}/${name.replaceAll(/\W/g, "_")}`;
  Deno.mkdirSync(folder);
  Deno.writeTextFileSync(`${folder}/main.ts`, program);
  for (const [file, content] of Object.entries(files)) {
    Deno.writeTextFileSync(`${folder}/${file}`, JSON.stringify(content));
  }
  return folder;
}

async function byTypeScript(
  name: string,
  options: Record<string, unknown>,
): Promise<string | null> {
  const modules = tools();
  const compilerOptions = {
    module: "nodenext",
    target: "es2022",
    types: ["node"],
    typeRoots: [`${modules}/@types`],
    noEmit: true,
    ...options,
  };
  const folder = project(name, {
    "package.json": { type: "module" },
    "tsconfig.json": { compilerOptions, files: ["main.ts"] },
  });
  Deno.mkdirSync(`${folder}/node_modules/@proton-stream`, { recursive: true });
  Deno.symlinkSync(`${checkout}.cache/package`, `${folder}/node_modules/@proton-stream/port`);
  return await fails("node", [`${modules}/typescript/lib/tsc.js`, "-p", folder], folder);
}

async function byDeno(name: string): Promise<string | null> {
  const imports = { "@proton-stream/port": `${checkout}mod.ts` };
  const folder = project(name, { "deno.json": { imports } });
  return await fails(Deno.execPath(), ["check", "main.ts"], folder);
}

const all = Deno.makeTempDirSync({ prefix: "proton_test_projects_" });
try {
  const results = await Promise.all([
    ...Object.entries(TYPESCRIPT).map(([name, options]) => byTypeScript(name, options)),
    byDeno("Deno without options"),
  ]);
  const wrong = results.filter((result) => result !== null);
  for (const one of wrong) console.log(one);
  console.log(`${results.length - wrong.length} passed, ${wrong.length} failed, 0 skipped`);
  Deno.exitCode = wrong.length === 0 ? 0 : 1;
} finally {
  Deno.removeSync(all, { recursive: true });
}
