// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Writes the TypeScript of Deno's door (src/native/bindings.ts) to the path
//! in the first argument. deno_bindgen's own command line is not used: it waits
//! for cargo without reading what cargo prints.

use deno_bindgen::codegen::{generate, Options, Target};
use deno_bindgen::{Inventory, Symbol};
use std::path::PathBuf;

// The inventory is filled by the linker: without this line the library is not in this program.
use proton_stream as _;

const HEADER: &str = "// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
// Written by ffi/src/bin/bindings.rs (deno_bindgen); scripts/check compares it.
// deno-fmt-ignore-file
// deno-lint-ignore-file
";

/// The linker's order is nobody's: by name.
fn sorted() -> &'static [Inventory] {
    let mut symbols: Vec<Inventory> = Vec::new();
    for item in deno_bindgen::INVENTORY {
        if let Inventory::Symbol(s) = item {
            let (name, parameters, return_type) = (s.name, s.parameters, s.return_type);
            let (non_blocking, internal, is_constructor) = (s.non_blocking, s.internal, s.is_constructor);
            symbols.push(Inventory::Symbol(Symbol {
                name,
                parameters,
                return_type,
                non_blocking,
                internal,
                is_constructor,
            }));
        }
    }
    symbols.sort_by_key(|item| match item {
        Inventory::Symbol(symbol) => symbol.name,
        _ => "",
    });
    symbols.leak()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: bindings FILE")?);
    let options = Options {
        target: Target::Deno,
        out: Some(out.clone()),
        local_dylib_path: PathBuf::from("default"),
        lazy_init: true,
    };
    generate(sorted(), options)?;
    // No default path (it would be the build machine's), and a return type, as isolated declarations want one.
    let text = std::fs::read_to_string(&out)?;
    let text = text.replace("load(path: string = \"default\") {", "load(path: string): void {");
    std::fs::write(&out, format!("{HEADER}{text}"))?;
    Ok(())
}
