// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

fn main() {
    // Never unmapped: the reactor thread outlives the isolate that opened the library first.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // No lazy binding: a child between clone and exec must not enter the loader.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
    // The library is also the guardian's program.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-e,proton_entry");
    println!("cargo:rerun-if-changed=build.rs");
}
